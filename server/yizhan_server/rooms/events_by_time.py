"""Finding events by when they were sent.

Spec: client-server API, "Jump to a specific date in the timeline" (GET /timestamp_to_event).
"""

from __future__ import annotations

from typing import Literal

from yizhan_database import Database
from yizhan_server.federation_client.events import FoundEvent
from yizhan_server.protocol.errors import NotFound
from yizhan_server.rooms.access import ReadableRoom, RoomAccess
from yizhan_server.rooms.incoming.backfill import Backfill
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.events import StoredEvent

MAX_SCANNED = 5000
"""Events looked at for one that the reader may see."""

_FAR = 2**53
"""Beyond any position."""


class EventsByTime:
    """Answers which event is the nearest to a time."""

    def __init__(self, db: Database, access: RoomAccess, backfill: Backfill) -> None:
        self._db = db
        self._access = access
        self._backfill = backfill

    async def event_at(
        self, readable: ReadableRoom, ts_ms: int, *, backwards: bool
    ) -> tuple[str, int]:
        """Return ID and time of the visible event closest to a time on one side of it.

        An event of that very time counts on both sides. M_NOT_FOUND if there is none. Beside a gap
        in what is here, other servers are asked.
        """
        here = await self._event_here(readable, ts_ms, backwards=backwards)
        found = None if here is None else (here.event_id, here.ts_ms)
        if readable.membership == "join" and await self._is_in_gap(readable, ts_ms):
            direction: Literal["f", "b"] = "b" if backwards else "f"
            remote = await self._backfill.event_by_time(readable.room, ts_ms, direction)
            if remote is not None and await self._is_closer(readable, remote, ts_ms, found):
                return remote.event_id, remote.origin_server_ts
        if found is None:
            raise NotFound("There is no event on this side of that time")
        return found

    async def _event_here(
        self, readable: ReadableRoom, ts_ms: int, *, backwards: bool
    ) -> StoredEvent | None:
        place = (ts_ms, _FAR) if backwards else (ts_ms, -_FAR)
        scanned = 0
        while scanned < MAX_SCANNED:
            page = await stored_events.events_by_time(
                self._db, readable.room.nid, place, backwards=backwards, limit=100
            )
            if not page:
                break
            scanned += len(page)
            place = (page[-1].ts_ms, page[-1].pos)
            visible = await self._access.visible(readable, page)
            if visible:
                return visible[0]
        return None

    async def _is_in_gap(self, readable: ReadableRoom, ts_ms: int) -> bool:
        """Whether events are missing before the first one that is here after a time."""
        later = await stored_events.events_by_time(
            self._db, readable.room.nid, (ts_ms, -_FAR), backwards=False, limit=1
        )
        return bool(later) and await self._backfill.is_at_edge(
            readable.room, later[0].depth, later[0].depth
        )

    async def _is_closer(
        self,
        readable: ReadableRoom,
        remote: FoundEvent,
        ts_ms: int,
        here: tuple[str, int] | None,
    ) -> bool:
        """Whether another server's answer is to be preferred, and may be seen."""
        distance = abs(remote.origin_server_ts - ts_ms)
        if here is not None and distance >= abs(here[1] - ts_ms):
            return False
        try:
            await self._access.access_event(
                readable.user_id, readable.room.room_id, remote.event_id
            )
        except NotFound:
            return False
        return True
