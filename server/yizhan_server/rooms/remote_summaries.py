"""Rooms that this server is not in, as servers that are in them describe them.

Another server tells what this one may know. Which of its users may know it is decided here.

Spec: server-server API, "Spaces" (GET /hierarchy); client-server API, "Spaces", "Room previews".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from yizhan_config.tasks import Background
from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import RemoteFailure, RemoteMisbehaved
from yizhan_server.federation_client.peers import Peers
from yizhan_server.federation_client.queries import QueryRequests
from yizhan_server.federation_client.remembered import Ask, Remembered
from yizhan_server.protocol.canonical_json import JsonObject, encode_any
from yizhan_server.protocol.identifiers import (
    InvalidIdentifier,
    RoomID,
    ServerName,
    UserID,
    parse_server_name,
    server_name_of,
)
from yizhan_server.rooms.join_rules import is_in_any
from yizhan_server.rooms.registry import Rooms
from yizhan_server.storage import room_servers as stored_servers
from yizhan_server.storage import rooms as stored_rooms

KEPT_MS = 60_000
MOST = 1000
MOST_BYTES = 32 * 1024 * 1024
"""Of all answers that are kept: a server may make each of them a megabyte."""

SERVERS = 3
"""Servers that are asked for one room, until one answers."""

MAX_CHILDREN = 500

_TEXTS = (
    "name", "topic", "canonical_alias", "avatar_url", "join_rule", "room_type", "room_version",
    "encryption",
)  # fmt: skip
_FLAGS = ("world_readable", "guest_can_join")
_OF_CHILD = {
    "type": str, "state_key": str, "sender": str, "content": dict, "origin_server_ts": int,
}  # fmt: skip

_Key = tuple[RoomID, tuple[ServerName, ...]]


@dataclass(frozen=True, slots=True)
class RemoteRoom:
    """What another server says of a room."""

    entry: dict[str, Any]
    children: list[JsonObject]
    """The child events of a space, stripped."""
    described: dict[str, dict[str, Any]]
    """Entries of rooms that it names as children, by ID."""
    inaccessible: frozenset[str]
    """Those of them that this server's users cannot enter or read."""
    size: int
    """The bytes of the answer."""


class RemoteSummaries:
    """Asks servers about rooms, and keeps what they say for a minute."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        background: Background,
        queries: QueryRequests,
        peers: Peers,
        rooms: Rooms,
    ) -> None:
        self._db = db
        self._queries = queries
        self._peers = peers
        self._rooms = rooms
        self._known = Remembered(
            clock, background, self._query,
            for_ms=KEPT_MS, most=MOST, most_bytes=MOST_BYTES, size_of=lambda room: room.size,
        )  # fmt: skip

    async def find(self, room_id: str, via: Iterable[object], ask: Ask) -> RemoteRoom | None:
        """Return what servers say of a room; None if none of them says anything.

        `via` are names of servers that somebody thinks are in it.
        """
        servers = await self._servers(room_id, via)
        if not servers:
            return None
        try:
            return await self._known.get((RoomID(room_id), servers), ask)
        except RemoteFailure:
            return None

    async def may_know_of(self, entry: dict[str, Any], user_id: UserID) -> bool:
        """Whether a user may be shown a room that another server has described."""
        membership = await self.membership(entry["room_id"], user_id)
        if membership in ("invite", "join"):
            return True
        if membership == "ban":
            return False
        if entry["world_readable"]:
            return True
        if entry.get("join_rule", "public") in ("public", "knock", "knock_restricted"):
            return True
        return await is_in_any(self._rooms, entry.get("allowed_room_ids", ()), user_id)

    async def membership(self, room_id: str, user_id: UserID) -> str | None:
        """Return what a user is to a room that need not be here: invited, for one."""
        room = await self._rooms.find(room_id)
        if room is None:
            return None
        found = await stored_rooms.find_membership(self._db, room.nid, user_id)
        return None if found is None else found.membership

    async def _servers(self, room_id: str, via: Iterable[object]) -> tuple[ServerName, ...]:
        named: list[object] = list(via)
        room = await self._rooms.find(room_id)
        if room is not None:
            named += await stored_servers.largest_servers(self._db, room.nid)
        named.append(server_name_of(room_id) if ":" in room_id else None)
        servers: dict[ServerName, None] = {}
        for each in named[:50]:
            try:
                server = parse_server_name(each) if isinstance(each, str) else None
            except InvalidIdentifier:
                continue
            if server is not None and self._peers.is_allowed(server):
                servers[server] = None
        return tuple(servers)[:SERVERS]

    async def _query(self, key: _Key) -> RemoteRoom:
        room_id, servers = key
        failure: RemoteFailure | None = None
        for server in servers:
            try:
                return _read(server, room_id, await self._queries.hierarchy(server, room_id))
            except RemoteFailure as error:
                failure = error
        assert failure is not None, "at least one server is asked"
        raise failure


def _read(server: ServerName, room_id: RoomID, answer: JsonObject) -> RemoteRoom:
    """Return what of an answer has the right form. Raises RemoteMisbehaved."""
    given = answer.get("room")
    entry = read_entry(given)
    if entry is None or not isinstance(given, dict) or entry["room_id"] != room_id:
        raise RemoteMisbehaved(server, "not the room that was asked for")
    children = given.get("children_state")
    described = answer.get("children")
    inaccessible = answer.get("inaccessible_children")
    entries = [read_entry(each) for each in _list(described)]
    return RemoteRoom(
        entry,
        [child for each in _list(children) if (child := _read_child(each)) is not None],
        {each["room_id"]: each for each in entries if each is not None},
        frozenset(each for each in _list(inaccessible) if isinstance(each, str)),
        len(encode_any(answer)),
    )


def _list(value: object) -> list[Any]:
    return value[:MAX_CHILDREN] if isinstance(value, list) else []


def _read_child(given: object) -> JsonObject | None:
    if not isinstance(given, dict) or given.get("type") != "m.space.child":
        return None
    if not all(isinstance(given.get(key), kind) for key, kind in _OF_CHILD.items()):
        return None
    return {key: given[key] for key in _OF_CHILD}


def read_entry(given: object) -> dict[str, Any] | None:
    """Return the description of a room as clients expect it; None for what is none."""
    if not isinstance(given, dict):
        return None
    room_id, joined = given.get("room_id"), given.get("num_joined_members")
    if not isinstance(room_id, str) or not room_id.startswith("!"):
        return None
    if not isinstance(joined, int) or isinstance(joined, bool) or joined < 0:
        return None
    entry: dict[str, Any] = {"room_id": room_id, "num_joined_members": joined}
    entry |= {name: given[name] for name in _TEXTS if isinstance(given.get(name), str)}
    entry |= {name: given.get(name) is True for name in _FLAGS}
    admitting = given.get("allowed_room_ids")
    if isinstance(admitting, list):
        entry["allowed_room_ids"] = [each for each in admitting if isinstance(each, str)][:100]
    return entry
