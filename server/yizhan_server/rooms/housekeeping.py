"""What time undoes: originals of redacted events, and numbers of what nobody repeats.

A redacted event is shown pruned at once; its original is kept for a while, so that an abuse
that its author redacted can still be looked into, and is then overwritten.
"""

from __future__ import annotations

import asyncio

from yizhan_database import Database, Transaction
from yizhan_server.clock import Clock
from yizhan_server.protocol.event import redact_pdu
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import to_device as stored_to_device

EVERY_S = 3600
BATCH = 100
TXN_LIFETIME_MS = 24 * 3600 * 1000
DAY_MS = 24 * 3600 * 1000
RECEIVED_LIFETIME_MS = 90 * DAY_MS
"""A server that was cut off for so long may send the same message again."""


class Housekeeping:
    """Runs in the background, once an hour."""

    def __init__(self, db: Database, clock: Clock, retention_days: int) -> None:
        self._db = db
        self._clock = clock
        self._retention_ms = retention_days * DAY_MS

    async def run(self) -> None:
        """Tidy now and every hour."""
        while True:
            await self.tidy()
            await asyncio.sleep(EVERY_S)

    async def tidy(self) -> None:
        """Erase what is due."""
        tx = Transaction()
        stored_events.delete_transactions(tx, self._clock.now_ms() - TXN_LIFETIME_MS)
        stored_to_device.forget_received(tx, self._clock.now_ms() - RECEIVED_LIFETIME_MS)
        await self._db.commit(tx)
        due_ms = self._clock.now_ms() - self._retention_ms
        while due := await stored_events.redacted_before(self._db, due_ms, BATCH):
            tx = Transaction()
            for target, redaction, version in due:
                await self._erase(tx, target, redaction, version)
            await self._db.commit(tx)

    async def _erase(self, tx: Transaction, target: str, redaction: int, version: str) -> None:
        found = await stored_events.find_event(self._db, target)
        pruned = None
        if found is not None:
            rules = ROOM_VERSIONS[version]
            nid = found[1].nid
            pdu = (await stored_events.pdus_by_nid(self._db, [nid], rules))[nid]
            pruned = stored_events.split_pdu(redact_pdu(pdu, rules))
        stored_events.erase_original(tx, target, redaction, pruned)
