"""Erasing messages that are older than their room keeps them.

A room says so in `m.room.retention` (MSC1763), within the bounds that the administrator sets; the
administrator's default holds for the others. What is erased stays as an event without
content, as after a redaction, so that the room's history remains verifiable; state stays. Files
are not erased: in encrypted rooms nobody but the members knows which message names which.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from yizhan_config.settings import Retention as RetentionSettings
from yizhan_database import Commit, Database, Transaction
from yizhan_server.clock import Clock
from yizhan_server.protocol.event import redact_pdu
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import retention as storage
from yizhan_server.storage import search as stored_search

log = logging.getLogger(__name__)

EVERY_S = 3600
BATCH = 200
DAY_MS = 24 * 3600 * 1000


class Retention:
    """Runs in the background, once an hour."""

    def __init__(
        self, db: Database, clock: Clock, rooms: Rooms, settings: RetentionSettings
    ) -> None:
        self._db = db
        self._clock = clock
        self._rooms = rooms
        self._settings = settings

    async def run(self) -> None:
        """Erase now and every hour, while retention is switched on."""
        while self._settings.enabled:
            await self.erase_due()
            await asyncio.sleep(EVERY_S)

    async def erase_due(self) -> None:
        """Erase whatever is older than its room keeps it."""
        now_ms = self._clock.now_ms()
        async for nid, room_id, erased_ms in storage.scan_rooms(self._db):
            room = await self._rooms.get(room_id)
            lifetime_ms = await self._lifetime_ms(room)
            if lifetime_ms is not None:
                await self._erase(room, nid, erased_ms, now_ms - lifetime_ms)

    async def _lifetime_ms(self, room: Room) -> int | None:
        """Return how long a room's messages are kept; None: for good."""
        event = await room.state_event("m.room.retention")
        wanted = None if event is None else event.pdu.content.get("max_lifetime")
        if type(wanted) is not int or wanted <= 0:
            default = self._settings.default_days
            return default * DAY_MS if default else None
        shortest = self._settings.shortest_days * DAY_MS
        longest = self._settings.longest_days * DAY_MS
        return max(min(wanted, longest) if longest else wanted, shortest)

    async def _erase(self, room: Room, nid: int, after_ms: int, upto_ms: int) -> None:
        while after_ms < upto_ms:
            due = await storage.find_due(self._db, nid, after_ms, upto_ms, BATCH)
            if not due:
                return
            # Those of one millisecond go together, so that the next page can begin after it.
            last_ms = due[-1][2]
            if len(due) == BATCH:
                due += await storage.find_due(self._db, nid, last_ms - 1, last_ms, 100 * BATCH)
            await self._erase_events(room, dict.fromkeys(e[0] for e in due), last_ms)
            after_ms = last_ms
            await asyncio.sleep(0)

    async def _erase_events(self, room: Room, nids: dict[int, None], upto_ms: int) -> None:
        tx = Transaction()
        await record_erasure(self._db, tx, room, nids)
        storage.advance_retention(tx, room.nid, upto_ms)
        await self._db.commit(tx)
        log.info("old messages erased", extra={"room_id": room.room_id, "count": len(nids)})


async def record_erasure(db: Database, tx: Transaction, room: Room, nids: Iterable[int]) -> None:
    """Record that events of a room lose their content; it is out of sight with the commit."""
    pdus = await stored_events.pdus_by_nid(db, list(nids), room.version)
    for nid, pdu in pdus.items():
        pruned = stored_events.split_pdu(redact_pdu(pdu, room.version))
        storage.erase_event(tx, nid, pruned)
        stored_search.replace_document(tx, db, nid, room.nid, [])
    event_ids = [pdu.event_id for pdu in pdus.values()]

    def forget(_: Commit) -> None:
        for event_id in event_ids:
            room.redacted(event_id, None)

    tx.after_commit(forget)
