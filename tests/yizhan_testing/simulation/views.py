"""What each server makes of a room: read from its database, and checked in itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.storage.events import GAP, REJECTED, SOFT_FAILED, join_pdu
from yizhan_testing.simulation.town import Server

State = dict[tuple[str, str], str]


class Disagreement(Exception):
    """What differs, and where."""


@dataclass(frozen=True)
class Known:
    """What a server has of an event."""

    pos: int | None
    flags: int
    prev_events: tuple[str, ...]
    depth: int
    what: str
    member: str | None
    """Whose membership it says."""

    @property
    def is_rejected(self) -> bool:
        return bool(self.flags & REJECTED)

    @property
    def is_soft_failed(self) -> bool:
        return bool(self.flags & SOFT_FAILED)

    @property
    def is_live(self) -> bool:
        return self.pos is not None and self.pos > 0

    @property
    def is_history(self) -> bool:
        return self.pos is not None and self.pos < 0

    @property
    def mark(self) -> str:
        """What it is to its server, in a word."""
        if self.is_rejected:
            return "rejected"
        if self.is_soft_failed:
            return "soft-failed"
        return "outlier" if self.pos is None else f"{self.pos}{'g' * bool(self.flags & GAP)}"


@dataclass(frozen=True)
class View:
    """What a server makes of a room that it is in."""

    server: str
    ends: frozenset[str]
    state: State
    events: Mapping[str, Known]
    own_joins: frozenset[str]
    """Joins of its own users through other servers, which it begins or resumes the room with."""
    joined: frozenset[str]
    """Users of all servers."""


async def residents(servers: Iterable[Server], room: str) -> list[Server]:
    """Return the servers that, in their own eyes, are in a room."""
    found = []
    for server in servers:
        row = await server.db.row(
            "SELECT 1 FROM room JOIN room_server AS s ON s.room = room.nid"
            " WHERE room.room_id = ? AND s.server = ? AND s.to_pos = 0",
            room, server.server_name,
        )  # fmt: skip
        if row is not None:
            found.append(server)
    return found


async def view_of(server: Server, room: str) -> View:
    """Read what a server makes of a room. Disagreement if it contradicts itself."""
    row = await server.db.row(
        "SELECT nid, version, forward_extremities FROM room WHERE room_id = ?", room
    )
    assert row is not None
    nid, version, ends = row
    events: dict[str, Known] = {}
    own_joins: set[str] = set()
    for event_id, pos, flags, client, rest in await server.db.rows(
        "SELECT event_id, pos, flags, client, rest FROM event WHERE room = ?", nid
    ):
        pdu = join_pdu(client, rest, ROOM_VERSIONS[version])
        what = f"{pdu.type} {pdu.membership or ''} {pdu.state_key} by {pdu.sender}"
        member = pdu.state_key if pdu.type == "m.room.member" else None
        events[event_id] = Known(pos, flags, tuple(pdu.prev_events), pdu.depth, what, member)
        is_own_join = pdu.membership == "join" and pdu.state_key == pdu.sender
        if is_own_join and flags & GAP and pdu.sender.endswith(":" + server.server_name):
            own_joins.add(event_id)
    state = await _state(server, nid)
    joined = await _check_memberships(server, nid, room, state)
    return View(
        server.server_name, frozenset(end[1] for end in orjson.loads(ends)), state, events,
        frozenset(own_joins), joined,
    )  # fmt: skip


async def _state(server: Server, room: int) -> State:
    rows: list[Any] = await server.db.rows(
        "SELECT k.type, k.state_key, e.event_id FROM current_state AS c"
        " JOIN state_key AS k ON k.nid = c.key JOIN event AS e ON e.nid = c.event"
        " WHERE c.room = ? AND c.pos = (SELECT max(l.pos) FROM current_state AS l"
        " WHERE l.room = c.room AND l.key = c.key)",
        room,
    )
    return {(kind, key): event for kind, key, event in rows}


async def _check_memberships(
    server: Server, room: int, room_id: str, state: State
) -> frozenset[str]:
    """Check what is derived from the current state against it; returns who is joined."""
    rows = await server.db.rows(
        "SELECT m.user_id, m.membership, e.event_id FROM membership AS m"
        " LEFT JOIN event AS e ON e.nid = m.event WHERE m.room = ?",
        room,
    )
    joined: dict[str, int] = {}
    users: set[str] = set()
    for user, membership, event in rows:
        if state.get(("m.room.member", user), event) != event:
            raise Disagreement(f"{server.server_name}: membership of {user} in {room_id}")
        if membership == "join":
            users.add(user)
            name = user.partition(":")[2]
            joined[name] = joined.get(name, 0) + 1
    counted = await server.db.rows(
        "SELECT server, joined FROM room_server WHERE room = ? AND to_pos = 0", room
    )
    if dict(counted) != joined:
        raise Disagreement(f"{server.server_name}: servers of {room_id}: {counted}, not {joined}")
    return frozenset(users)
