"""Erasing messages at the time that their senders named (MSC2228).

A message says so beside its content, so in encrypted rooms as well. It is erased as by retention:
the event stays without content. Whoever has read it may have kept it; what this ends is that the
server has it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from yizhan_database import Database, Transaction
from yizhan_server.clock import Clock
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.retention import record_erasure
from yizhan_server.storage import followers
from yizhan_server.storage import search as stored_search
from yizhan_server.storage import self_destruction as storage
from yizhan_server.storage.events import StoredEvent
from yizhan_server.streams import Stream

FOLLOWER = "self_destruction"
KEY = "org.matrix.self_destruct_after"
BATCH = 200
LONGEST_SLEEP_S = 60.0
LAG = 1000
"""So many positions without such a message are looked at again after a restart."""


class SelfDestruction:
    """Follows the stream, notes what is to be erased, and erases what is due."""

    def __init__(self, db: Database, stream: Stream, clock: Clock, rooms: Rooms) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._rooms = rooms
        self._cursor: int | None = None
        self._kept = 0

    async def run(self) -> None:
        """Follow; in the background."""
        with self._stream.follow() as published:
            while not self._stream.closing:
                published.clear()
                await self.catch_up()
                await self.erase_due()
                try:
                    async with asyncio.timeout(await self._seconds_to_next()):
                        await published.wait()
                except TimeoutError:
                    continue

    async def catch_up(self) -> None:
        """Note what is to be erased of everything that is committed now."""
        upto = self._stream.position
        if self._cursor is None:
            self._cursor = self._kept = await followers.find_cursor(self._db, FOLLOWER)
        while self._cursor < upto:
            page = await stored_search.events_after(self._db, self._cursor, upto, BATCH)
            cursor = page[-1][1].pos if len(page) == BATCH else upto
            await self._note(page, cursor)
            self._cursor = cursor

    async def _note(self, page: list[tuple[int, StoredEvent]], cursor: int) -> None:
        tx, found = Transaction(), False
        for room, event in page:
            # Most events are not even parsed.
            if event.state_key is not None or KEY.encode() not in event.client:
                continue
            due_ms = event.content.get(KEY)
            if type(due_ms) is int and 0 <= due_ms < 2**53:
                storage.insert_due(tx, event.nid, room, due_ms)
                found = True
        if not found and cursor - self._kept < LAG:
            return
        followers.advance_cursor(tx, FOLLOWER, cursor)
        await self._db.commit(tx)
        self._kept = cursor

    async def erase_due(self) -> None:
        """Erase what is due now."""
        while due := await storage.find_due(self._db, self._clock.now_ms(), BATCH):
            by_room: dict[int, list[int]] = defaultdict(list)
            for event, room_nid in due:
                by_room[room_nid].append(event)
            rooms = await self._rooms.by_nid(list(by_room))
            for room_nid, events in by_room.items():
                tx = Transaction()
                if room_nid in rooms:
                    await record_erasure(self._db, tx, rooms[room_nid], events)
                storage.delete_due(tx, events)
                await self._db.commit(tx)

    async def _seconds_to_next(self) -> float:
        next_ms = await storage.next_due(self._db)
        if next_ms is None:
            return LONGEST_SLEEP_S
        return min(LONGEST_SLEEP_S, max(0, next_ms - self._clock.now_ms()) / 1000)
