"""What is kept for a server that is gone for good, and what of it is given up.

Events and changes of keys wait in the stream, at no cost, and are sent whenever a server is back.
Messages to devices, and the transaction on its way, are rows: they wait for a month, and only so
many for one server. By then the keys in them are of no use: whoever comes back asks for newer ones.
"""

from __future__ import annotations

import asyncio
import logging

from yizhan_database import Database, Transaction
from yizhan_server.clock import Clock
from yizhan_server.storage import destinations as storage

log = logging.getLogger(__name__)

EVERY_S = 3600

KEPT_MS = 30 * 86_400_000
"""Shorter than the time for which receivers remember what they have had (90 days)."""

MOST = 20_000
"""Messages that wait for one server; of more, the oldest give way."""


class OutboxExpiry:
    """Runs in the background, once an hour."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def run(self) -> None:
        """Look now and every hour."""
        while True:
            await self.expire()
            await asyncio.sleep(EVERY_S)

    async def expire(self) -> None:
        """Give up what has waited for too long, or is too much."""
        now_ms = self._clock.now_ms()
        before_ms = now_ms - KEPT_MS
        async for server in storage.scan_busy_servers(self._db):
            waits_since_ms = await storage.waits_since_ms(self._db, server)
            surplus = await storage.find_surplus(self._db, server, MOST)
            if waits_since_ms >= before_ms and surplus is None:
                continue
            tx = Transaction()
            if waits_since_ms == 0:
                storage.date_undated(tx, server, now_ms)
            storage.delete_waiting(tx, server, before_ms, surplus or 0)
            await self._db.commit(tx)
            if waits_since_ms > 0:
                log.warning("messages to devices given up", extra={"server": server})
