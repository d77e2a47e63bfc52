"""The events that a user was notified of: what GET /notifications lists.

Spec: client-server API, "Listing notifications".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.accounts.requester import Requester
from yizhan_server.push.notification import tweaks_of
from yizhan_server.rooms.access import ReadableRoom, RoomAccess
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.rendering import EventRenderer, Reader
from yizhan_server.rooms.room import LATEST
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import receipts as stored_receipts
from yizhan_server.storage.events import StoredEvent
from yizhan_server.storage.notifications import notices_before
from yizhan_server.storage.pushers import Notice
from yizhan_server.storage.receipts import UNTHREADED
from yizhan_server.streams import Stream

SPAN = 20_000
"""Positions that one page looks at; whoever was notified of nothing in them gets an empty page."""


@dataclass(frozen=True, slots=True)
class NotificationPage:
    """Notifications, newest first, and where the next page begins."""

    notifications: list[dict[str, Any]]
    next_position: int | None


class NotificationHistory:
    """Lists notifications."""

    def __init__(
        self, db: Database, stream: Stream, rooms: Rooms, access: RoomAccess,
        renderer: EventRenderer,
    ) -> None:  # fmt: skip
        self._db = db
        self._stream = stream
        self._rooms = rooms
        self._access = access
        self._renderer = renderer

    async def page(
        self, requester: Requester, before: int | None, limit: int, *, highlights_only: bool
    ) -> NotificationPage:
        """Return the last `limit` notifications at positions below `before` (or of all)."""
        if before is None or before > self._stream.position:
            before = self._stream.position + 1
        start = max(0, before - 1 - SPAN)
        notices = await notices_before(
            self._db, requester.user_id, start, before, limit, highlights_only=highlights_only
        )
        found = await stored_events.events_by_nid(self._db, [notice.event for notice in notices])
        shown = [
            entry
            for notice in notices
            if (entry := await self._entry(requester, notice, found[notice.event])) is not None
        ]
        if len(notices) == limit:
            return NotificationPage(shown, notices[-1].pos)
        return NotificationPage(shown, start + 1 if start else None)

    async def _entry(
        self, requester: Requester, notice: Notice, event: StoredEvent
    ) -> dict[str, Any] | None:
        """Return a notification; None for what happened before the user was in the room."""
        user_id = requester.user_id
        room = (await self._rooms.by_nid([notice.room]))[notice.room]
        readable = ReadableRoom(room, user_id, "join", LATEST)
        own = event.type == "m.room.member" and event.state_key == user_id
        if not own and await self._access.membership_at(readable, [event]) != ["join"]:
            return None
        rendered = await self._renderer.render(Reader(readable, requester.device_id), [event])
        tweaks = [{"set_tweak": kind, "value": value} for kind, value in tweaks_of(notice).items()]
        return {
            "room_id": room.room_id,
            "actions": ["notify", *tweaks],
            "event": orjson.Fragment(rendered[0]),
            "profile_tag": "",
            "read": await self._is_read(notice, event, user_id),
            "ts": event.ts_ms,
        }

    async def _is_read(self, notice: Notice, event: StoredEvent, user_id: str) -> bool:
        receipts = await stored_receipts.receipts_of_user(self._db, notice.room, user_id)
        threads = (UNTHREADED, event.thread or "main")
        return any(r.event_pos >= notice.pos and r.thread in threads for r in receipts)
