"""Which rooms an answer covers, and what is wanted of each.

The rooms of a list are ordered by their last activity, as the MSC says, and not by `bump_stamp`.

Spec: MSC4186, "Lists and subscriptions", "Combining room configs".
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from yizhan_database import Database
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.access import RoomAccess
from yizhan_server.rooms.registry import Rooms
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.rooms import UserRoom
from yizhan_server.sync.changes import Window
from yizhan_server.sync.sliding.connection import ConnectionState
from yizhan_server.sync.sliding.request import ListRequest, RoomConfig, SlidingRequest
from yizhan_server.sync.sliding.room_filters import Choice, RoomFilters

JsonObject = dict[str, Any]


@dataclass(slots=True)
class CoveredRoom:
    """A room that the answer covers."""

    room: UserRoom
    config: RoomConfig
    lists: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Coverage:
    """What lists and subscriptions come to."""

    rooms: dict[int, CoveredRoom] = field(default_factory=dict)
    lists: dict[str, JsonObject] = field(default_factory=dict)
    """As they are answered."""

    def add(self, room: UserRoom, config: RoomConfig, name: str | None = None) -> None:
        """Cover a room; what is wanted of it adds up."""
        covered = self.rooms.get(room.nid)
        if covered is None:
            covered = self.rooms[room.nid] = CoveredRoom(room, config)
        else:
            covered.config |= config
        if name is not None and name not in covered.lists:
            covered.lists.append(name)


class RoomLists:
    """Computes lists."""

    def __init__(
        self, db: Database, access: RoomAccess, rooms: Rooms, filters: RoomFilters
    ) -> None:
        self._db = db
        self._access = access
        self._rooms = rooms
        self._filters = filters

    async def listed(
        self, user_id: UserID, rooms: list[UserRoom], sent: ConnectionState, window: Window
    ) -> list[UserRoom]:
        """Return those of the user's rooms that lists are made of.

        Rooms that the user has left are in them only until the connection has been told, those
        from which somebody removed the user stay.
        """
        kept = []
        for room in rooms:
            if room.membership in ("leave", "ban"):
                before = sent.get(room.nid)
                news = before is not None and room.pos > (before.upto or window.after or 0)
                removed = room.sender != user_id
                if not news and not (removed and await self._was_joined(user_id, room)):
                    continue
            kept.append(room)
        return kept

    async def cover(
        self,
        request: SlidingRequest,
        rooms: list[UserRoom],
        listed: list[UserRoom],
        directs: frozenset[str],
        upto: int,
    ) -> Coverage:
        """Return which of the rooms the answer covers. `rooms`: all that may be subscribed to."""
        user_id, coverage = request.user_id, Coverage()
        choice = Choice(user_id, upto, listed, directs)
        activity: dict[int, int] | None = None
        for name, wanted in request.lists.items():
            chosen = listed
            if wanted.filters is not None:
                chosen = await self._filters.select(choice, wanted.filters)
                # A hundred lists must not hold up everybody else.
                await asyncio.sleep(0)
            if not _covers_all(wanted, len(chosen)):
                if activity is None:
                    activity = await stored_rooms.last_activity(self._db, user_id, upto)
                chosen = _by_activity(chosen, activity)
            operations = []
            for first, last in wanted.ranges or [(0, max(0, len(chosen) - 1))]:
                part = chosen[first : last + 1]
                for room in part:
                    coverage.add(room, wanted.config, name)
                operations.append(
                    {
                        "op": "SYNC",
                        "range": [first, last],
                        "room_ids": [room.room_id for room in part],
                    }
                )
            coverage.lists[name] = {"count": len(chosen), "ops": operations}
        if request.subscriptions:
            by_id = {room.room_id: room for room in rooms}
            for room_id, config in request.subscriptions.items():
                subscribed = by_id.get(room_id)
                if subscribed is not None and await self._may_subscribe(user_id, subscribed):
                    coverage.add(subscribed, config)
        return coverage

    async def _may_subscribe(self, user_id: UserID, room: UserRoom) -> bool:
        if room.membership in ("join", "invite", "knock"):
            return True
        return await self._was_joined(user_id, room)

    async def _was_joined(self, user_id: UserID, room: UserRoom) -> bool:
        return await self._access.was_joined(await self._rooms.get(room.room_id), user_id)


def _covers_all(wanted: ListRequest, count: int) -> bool:
    """Whether the order does not matter."""
    return wanted.ranges is None or (
        len(wanted.ranges) == 1 and wanted.ranges[0][0] == 0 and wanted.ranges[0][1] >= count - 1
    )


def _by_activity(rooms: list[UserRoom], activity: dict[int, int]) -> list[UserRoom]:
    """Return the rooms, the latest active first; elsewhere than joined the membership counts."""

    def latest(room: UserRoom) -> int:
        return activity.get(room.nid, room.pos) if room.membership == "join" else room.pos

    return sorted(rooms, key=latest, reverse=True)
