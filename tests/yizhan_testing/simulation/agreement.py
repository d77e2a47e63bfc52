"""Whether all servers of a room agree on it, and whether each is consistent in itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.storage.events import GAP, REJECTED, SOFT_FAILED, join_pdu
from yizhan_testing.simulation.acts import path_of
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


async def check_agreement(servers: list[Server], room: str) -> int:
    """Raise Disagreement unless all servers of the room agree; returns how many there are."""
    views = [await _view(server, room) for server in await residents(servers, room)]
    if not views:
        return 0
    try:
        _check(room, views)
    except Disagreement as disagreement:
        disagreement.add_note(table_of(views))
        raise
    return len(views)


def _check(room: str, views: list[View]) -> None:
    first = views[0]
    for view in views[1:]:
        if view.ends != first.ends:
            raise Disagreement(
                f"ends of {room}: {first.server} {sorted(first.ends)},"
                f" {view.server} {sorted(view.ends)}"
            )
        if view.state != first.state:
            raise Disagreement(_difference(room, first, view))
    _check_events(room, views)


def table_of(views: list[View]) -> str:
    """Return the events of a room, a line each, and what they are to each server."""
    events = {event: known for view in views for event, known in view.events.items()}
    lines = ["  ".join(f"{view.server[:9]:11}" for view in views)]
    for event, known in sorted(events.items(), key=lambda item: (item[1].depth, item[0])):
        marks = "  ".join(
            f"{view.events[event].mark if event in view.events else '-':11}" for view in views
        )
        before = " ".join(each[:7] for each in known.prev_events)
        lines.append(f"{marks}  {known.depth:3} {event[:7]} after {before}: {known.what}")
    return "\n".join(lines)


def _difference(room: str, one: View, other: View) -> str:
    keys = {key for key, _ in one.state.items() ^ other.state.items()}
    parts = [f"{key}: {one.state.get(key)} / {other.state.get(key)}" for key in sorted(keys)]
    return f"state of {room} at {one.server} / {other.server}: {'; '.join(parts)}"


def _check_events(room: str, views: list[View]) -> None:
    """Check that what is live at one server is live at all, or known not to be for a reason."""
    shown = {
        event: known for view in views for event, known in view.events.items() if known.is_live
    }
    soft_failed = {e for view in views for e, known in view.events.items() if known.is_soft_failed}
    for view in views:
        excused = _before(view.own_joins, views)
        horizon = max((view.events[join].depth for join in view.own_joins), default=0)
        for event, elsewhere in shown.items():
            known = view.events.get(event)
            if known is not None and (known.is_live or known.is_soft_failed):
                continue
            # What happened beside a join is not told from what happened before it.
            if event in excused or elsewhere.depth <= horizon:
                continue
            # What is met behind a gap is not judged by the current state.
            if known is not None and known.is_history and event in soft_failed:
                continue
            here = [other.server for other in views if event in other.events]
            raise Disagreement(
                f"{event} of {room} is live elsewhere (known to {here}), at {view.server}: {known}"
            )
        for other in views:
            for event, known in view.events.items():
                if known.is_rejected and event in other.events:
                    counterpart = other.events[event]
                    if counterpart.is_live or counterpart.is_soft_failed:
                        raise Disagreement(f"{event} of {room}: rejected at {view.server} only")


def _before(joins: Iterable[str], views: list[View]) -> set[str]:
    """Return the events before some, which whoever joins with these need not have."""
    found: set[str] = set()
    unseen = list(joins)
    while unseen:
        event = unseen.pop()
        for view in views:
            known = view.events.get(event)
            if known is not None:
                unseen += [each for each in known.prev_events if each not in found]
                found.update(known.prev_events)
                break
    return found


async def _view(server: Server, room: str) -> View:
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
        events[event_id] = Known(pos, flags, tuple(pdu.prev_events), pdu.depth, what)
        is_own_join = pdu.membership == "join" and pdu.state_key == pdu.sender
        if is_own_join and flags & GAP and pdu.sender.endswith(":" + server.server_name):
            own_joins.add(event_id)
    state = await _state(server, nid)
    await _check_memberships(server, nid, room, state)
    return View(
        server.server_name, frozenset(end[1] for end in orjson.loads(ends)), state, events,
        frozenset(own_joins),
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


async def _check_memberships(server: Server, room: int, room_id: str, state: State) -> None:
    """Check what is derived from the current state against it."""
    rows = await server.db.rows(
        "SELECT m.user_id, m.membership, e.event_id FROM membership AS m"
        " LEFT JOIN event AS e ON e.nid = m.event WHERE m.room = ?",
        room,
    )
    joined: dict[str, int] = {}
    for user, membership, event in rows:
        if state.get(("m.room.member", user), event) != event:
            raise Disagreement(f"{server.server_name}: membership of {user} in {room_id}")
        if membership == "join":
            name = user.partition(":")[2]
            joined[name] = joined.get(name, 0) + 1
    counted = await server.db.rows(
        "SELECT server, joined FROM room_server WHERE room = ? AND to_pos = 0", room
    )
    if dict(counted) != joined:
        raise Disagreement(f"{server.server_name}: servers of {room_id}: {counted}, not {joined}")


async def check_answers(server: Server, room: str) -> None:
    """Check that /state answers with the current state."""
    for person in server.people:
        if room in (await person.get("/v3/joined_rooms"))["joined_rooms"]:
            events: Any = await person.get(path_of(room, "state"))
            shown = {(event["type"], event["state_key"]): event["event_id"] for event in events}
            view = await _view(server, room)
            if shown != view.state:
                raise Disagreement(f"/state of {room} for {person.user_id}")
