"""The tree of a space: its rooms, depth first, as far as the reader may know of them.

The token of a page is the number of rooms before it, so any worker can continue; the walk up to
there is repeated, and reads only what is cached. Other servers are asked for the rooms that this
one is not in, as far as one page may have them asked.

Spec: client-server API, "Discovering rooms within spaces".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from yizhan_database import Database
from yizhan_server.federation_client.remembered import Ask
from yizhan_server.protocol.canonical_json import JsonObject, parse_roughly
from yizhan_server.protocol.errors import (
    Forbidden,
    InvalidParam,
    LimitExceeded,
    MatrixError,
    NotFound,
)
from yizhan_server.protocol.identifiers import ServerName, UserID
from yizhan_server.rooms.peer_access import PeerRoomAccess
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.remote_summaries import RemoteRoom, RemoteSummaries
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import ServerAccess
from yizhan_server.rooms.summaries import RoomSummaries
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REDACTED, StoredEvent

MAX_WALKED = 5000
"""Rooms visited for one page."""

MAX_CHILDREN = 500
"""Described to another server, which asks room by room."""

MAX_ASKED = 30
"""Rooms that other servers are asked for, for one page."""

PATIENCE_S = 20
"""How long one page waits for all of them."""

_TOKEN = re.compile(r"([0-9]{1,6})_([0-9]{1,6})_([01])", re.ASCII)
_ORDER = re.compile(r"[ -~]{1,50}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Walk:
    """What of the tree is asked for."""

    limit: int
    max_depth: int
    suggested_only: bool
    start: str | None


@dataclass(frozen=True, slots=True)
class _Node:
    """A room of the tree with its child events in order."""

    room: Room | None
    entry: dict[str, Any]
    """What another server says of a room that is not here."""
    children: list[JsonObject]
    remote: RemoteRoom | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """A room that is to be visited."""

    room_id: str
    depth: int
    via: list[object]
    parent: RemoteRoom | None = None
    """The room above it, if another server has described that."""


class SpaceHierarchy:
    """Walks spaces on behalf of a user."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        summaries: RoomSummaries,
        peer_access: PeerRoomAccess,
        access: ServerAccess,
        remote: RemoteSummaries,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._summaries = summaries
        self._peer_access = peer_access
        self._access = access
        self._remote = remote

    async def page(self, user_id: UserID, room_id: str, walk: Walk, ask: Ask) -> dict[str, Any]:
        """Return a page of the tree below a space, or answer M_FORBIDDEN.

        `ask` is called before another server is asked for a room.
        """
        start = _start_of(walk)
        rooms: list[dict[str, Any]] = []
        position = 0
        async for node in self._walk(user_id, room_id, walk, _Asking(ask)):
            if position == start + walk.limit:
                token = f"{position}_{walk.max_depth}_{int(walk.suggested_only)}"
                return {"rooms": rooms, "next_batch": token}
            if position >= start:
                rooms.append(await self._entry(node))
            position += 1
        if not position:
            raise Forbidden("You may not look into this room")
        return {"rooms": rooms}

    async def for_server(
        self, server: ServerName, room_id: str, *, suggested_only: bool
    ) -> dict[str, Any]:
        """Return a space and its children, for another server, or answer M_NOT_FOUND.

        Spec: server-server API, "Spaces".
        """
        root = await self._rooms.find(room_id)
        if root is not None and not await self._access.is_here(root):
            root = None
        if root is None or not await self._peer_access.may_know_of(root, server):
            raise NotFound("There is no such room, or it is not for your server")
        below = await self._children(root, suggested_only=suggested_only)
        children: list[dict[str, Any]] = []
        inaccessible: list[str] = []
        for child_id in [child["state_key"] for child in below[:MAX_CHILDREN]]:
            await asyncio.sleep(0)
            room = await self._rooms.find(child_id)
            if room is None or not await self._access.is_here(room):
                continue
            if await self._peer_access.may_know_of(room, server):
                children.append(await self._summaries.summarize(room))
            else:
                inaccessible.append(child_id)
        return {
            "room": await self._entry(_Node(root, {}, below)),
            "children": children,
            "inaccessible_children": inaccessible,
        }

    async def _walk(
        self, user_id: UserID, root: str, walk: Walk, asking: _Asking
    ) -> AsyncIterator[_Node]:
        """Yield each room once, before the rooms below it."""
        seen = {root}
        stack = [_Step(root, 0, [])]
        visited = 0
        while stack and visited < MAX_WALKED:
            step = stack.pop()
            visited += 1
            if visited % 50 == 0:
                await asyncio.sleep(0)
            node = await self._visit(user_id, step, walk, asking)
            if node is None:
                continue
            yield node
            if step.depth == walk.max_depth:
                continue
            below = {child["state_key"]: child["content"]["via"] for child in node.children}
            for child_id, via in reversed([each for each in below.items() if each[0] not in seen]):
                seen.add(child_id)
                stack.append(_Step(child_id, step.depth + 1, via, node.remote))

    async def _visit(
        self, user_id: UserID, step: _Step, walk: Walk, asking: _Asking
    ) -> _Node | None:
        """Return a room, if the user may know of it."""
        room = await self._rooms.find(step.room_id)
        if room is not None and await self._access.is_here(room):
            if not await self._summaries.may_know_of(room, user_id):
                return None
            children = await self._children(room, suggested_only=walk.suggested_only)
            return _Node(room, {}, children)
        entry = None
        if step.parent is not None:
            if step.room_id in step.parent.inaccessible:
                return None
            entry = step.parent.described.get(step.room_id)
        remote = None
        if entry is None or entry.get("room_type") == "m.space":
            remote = await self._find_remote(step, asking)
            entry = entry if remote is None else remote.entry
        if entry is None or not await self._remote.may_know_of(entry, user_id):
            return None
        children = [] if remote is None else remote.children
        return _Node(None, entry, _in_order(children, suggested_only=walk.suggested_only), remote)

    async def _find_remote(self, step: _Step, asking: _Asking) -> RemoteRoom | None:
        try:
            async with asyncio.timeout_at(asking.until):
                return await self._remote.find(step.room_id, step.via, asking)
        except TimeoutError:
            return None
        except MatrixError:
            # Of what may not be asked nothing is shown, unless it is all.
            if not step.depth:
                raise
            return None

    async def _children(self, room: Room, *, suggested_only: bool) -> list[JsonObject]:
        """Return the valid child events of a space in the order in which they are shown."""
        create = await room.state_event("m.room.create")
        if create is None or create.pdu.content.get("type") != "m.space":
            return []
        nids = await stored_state.current_state_of_type(self._db, room.nid, "m.space.child")
        events = (await stored_events.events_by_nid(self._db, nids)).values()
        stripped = [_stripped(event) for event in events if not event.flags & REDACTED]
        return _in_order(stripped, suggested_only=suggested_only)

    async def _entry(self, node: _Node) -> dict[str, Any]:
        entry = node.entry if node.room is None else await self._summaries.summarize(node.room)
        return {**entry, "children_state": node.children}


class _Asking:
    """What one page may have others asked: so many rooms, and so long."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._left = MAX_ASKED
        self.until = asyncio.get_running_loop().time() + PATIENCE_S

    @property
    def is_exhausted(self) -> bool:
        """Whether no more may be asked."""
        return self._left <= 0

    def __call__(self) -> None:
        """Count one more question."""
        if self.is_exhausted:
            raise LimitExceeded(1000, "The space has too many rooms of other servers")
        self._ask()
        self._left -= 1


def _in_order(children: list[JsonObject], *, suggested_only: bool) -> list[JsonObject]:
    """Return the valid ones of child events in the order in which they are shown."""
    found = []
    for child in children:
        content = child["content"]
        via = content.get("via")
        if not isinstance(via, list) or not via:
            continue
        if suggested_only and content.get("suggested") is not True:
            continue
        found.append((_order(child), child))
    return [child for _, child in sorted(found, key=lambda each: each[0])]


def _order(child: JsonObject) -> tuple[bool, str, int, str]:
    order = child["content"].get("order")
    valid = isinstance(order, str) and _ORDER.fullmatch(order) is not None
    return (
        not valid,
        order if isinstance(order, str) and valid else "",
        child["origin_server_ts"],
        child["state_key"],
    )


def _stripped(event: StoredEvent) -> JsonObject:
    whole = parse_roughly(event.client)
    return {
        key: whole[key] for key in ("type", "state_key", "content", "sender", "origin_server_ts")
    }


def _start_of(walk: Walk) -> int:
    if walk.start is None:
        return 0
    token = _TOKEN.fullmatch(walk.start)
    if token is None:
        raise InvalidParam("'from' is not a token of this endpoint")
    if (int(token[2]), token[3] == "1") != (walk.max_depth, walk.suggested_only):
        raise InvalidParam("'max_depth' and 'suggested_only' cannot change between pages")
    return int(token[1])
