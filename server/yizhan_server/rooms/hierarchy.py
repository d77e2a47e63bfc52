"""The tree of a space: its rooms, depth first, as far as the reader may know of them.

The token of a page is the number of rooms before it, so any worker can continue; the walk up to
there is repeated, and reads only what is cached. What another server would have to tell
is left out.

Spec: client-server API, "Discovering rooms within spaces".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.protocol.errors import Forbidden, InvalidParam, NotFound
from yizhan_server.protocol.identifiers import ServerName, UserID
from yizhan_server.rooms.peer_access import PeerRoomAccess
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.summaries import RoomSummaries
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REDACTED, StoredEvent

MAX_WALKED = 5000
"""Rooms visited for one page."""

MAX_CHILDREN = 500
"""Described to another server, which asks room by room."""

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

    room: Room
    children: list[StoredEvent]


class SpaceHierarchy:
    """Walks spaces on behalf of a user."""

    def __init__(
        self, db: Database, rooms: Rooms, summaries: RoomSummaries, peer_access: PeerRoomAccess
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._summaries = summaries
        self._peer_access = peer_access

    async def page(self, user_id: UserID, room_id: str, walk: Walk) -> dict[str, Any]:
        """Return a page of the tree below a space, or answer M_FORBIDDEN."""
        start = _start_of(walk)
        root = await self._rooms.find(room_id)
        if root is None or not await self._summaries.may_know_of(root, user_id):
            raise Forbidden("You may not look into this room")
        rooms: list[dict[str, Any]] = []
        position = 0
        async for node in self._walk(user_id, root, walk):
            if position == start + walk.limit:
                token = f"{position}_{walk.max_depth}_{int(walk.suggested_only)}"
                return {"rooms": rooms, "next_batch": token}
            if position >= start:
                rooms.append(await self._entry(node))
            position += 1
        return {"rooms": rooms}

    async def for_server(
        self, server: ServerName, room_id: str, *, suggested_only: bool
    ) -> dict[str, Any]:
        """Return a space and its children, for another server, or answer M_NOT_FOUND.

        Spec: server-server API, "Spaces".
        """
        root = await self._rooms.find(room_id)
        if root is None or not await self._peer_access.may_know_of(root, server):
            raise NotFound("There is no such room, or it is not for your server")
        below = await self._children(root, suggested_only=suggested_only)
        children: list[dict[str, Any]] = []
        inaccessible: list[str] = []
        for child_id in [child.state_key or "" for child in below[:MAX_CHILDREN]]:
            await asyncio.sleep(0)
            room = await self._rooms.find(child_id)
            if room is None:
                continue
            if await self._peer_access.may_know_of(room, server):
                children.append(await self._summaries.summarize(room))
            else:
                inaccessible.append(child_id)
        return {
            "room": await self._entry(_Node(root, below)),
            "children": children,
            "inaccessible_children": inaccessible,
        }

    async def _walk(self, user_id: UserID, root: Room, walk: Walk) -> AsyncIterator[_Node]:
        """Yield each room once, before the rooms below it."""
        seen = {str(root.room_id)}
        stack: list[tuple[str, int]] = [(root.room_id, 0)]
        visited = 0
        while stack and visited < MAX_WALKED:
            room_id, depth = stack.pop()
            visited += 1
            if visited % 50 == 0:
                await asyncio.sleep(0)
            room = await self._rooms.find(room_id)
            if room is None or not await self._summaries.may_know_of(room, user_id):
                continue
            children = await self._children(room, suggested_only=walk.suggested_only)
            yield _Node(room, children)
            if depth == walk.max_depth:
                continue
            below = [child.state_key or "" for child in children]
            for child_id in reversed([each for each in dict.fromkeys(below) if each not in seen]):
                seen.add(child_id)
                stack.append((child_id, depth + 1))

    async def _children(self, room: Room, *, suggested_only: bool) -> list[StoredEvent]:
        """Return the valid child events of a space in the order in which they are shown."""
        create = await room.state_event("m.room.create")
        if create is None or create.pdu.content.get("type") != "m.space":
            return []
        nids = await stored_state.current_state_of_type(self._db, room.nid, "m.space.child")
        events = (await stored_events.events_by_nid(self._db, nids)).values()
        found = []
        for event in events:
            content = {} if event.flags & REDACTED else event.content
            via = content.get("via")
            if not isinstance(via, list) or not via:
                continue
            if suggested_only and content.get("suggested") is not True:
                continue
            found.append((_order(content, event), event))
        return [event for _, event in sorted(found, key=lambda each: each[0])]

    async def _entry(self, node: _Node) -> dict[str, Any]:
        entry = await self._summaries.summarize(node.room)
        entry["children_state"] = [_stripped(child) for child in node.children]
        return entry


def _order(content: dict[str, Any], event: StoredEvent) -> tuple[bool, str, int, str]:
    order = content.get("order")
    valid = isinstance(order, str) and _ORDER.fullmatch(order) is not None
    return (
        not valid,
        order if isinstance(order, str) and valid else "",
        event.ts_ms,
        str(event.state_key),
    )


def _stripped(event: StoredEvent) -> dict[str, Any]:
    whole = orjson.loads(event.client)
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
