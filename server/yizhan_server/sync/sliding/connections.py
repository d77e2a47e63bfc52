"""Keeping connections: at most two states of each, few connections of a device, none for ever.

A state is written only when it differs from the one before, by a commit that takes no stream
position.

Spec: MSC4186, "Connections", "Security considerations".
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from yizhan_database import Database, Transaction
from yizhan_server.clock import Clock
from yizhan_server.protocol.errors import UnknownPos
from yizhan_server.storage import sliding_connections as storage
from yizhan_server.storage.sliding_connections import Connection
from yizhan_server.sync.sliding.connection import ConnectionState, pack_state, unpack_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_server.protocol.identifiers import DeviceID, UserID

MAX_CONNECTIONS = 16
"""Of one device; clients in use have one or two."""

DAY_MS = 24 * 3600 * 1000
LIFETIME_MS = 30 * DAY_MS
"""A client that was away for longer begins anew, which is then the faster way."""

EVERY_S = 3600

NUMBER_BITS = 59
"""Of the random numbers of states: at most 18 digits."""


class Connections:
    """Finds, records and expires the states of connections."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def find(self, connection: Connection, number: int) -> ConnectionState:
        """Return the state that a device's `pos` names. Raises UnknownPos."""
        found = await storage.find_state(self._db, connection, number)
        if found is None:
            raise UnknownPos
        state, used_ms = found
        now_ms = self._clock.now_ms()
        if now_ms - used_ms > DAY_MS:
            tx = Transaction()
            storage.mark_used(tx, connection, number, now_ms)
            await self._db.commit(tx)
        return unpack_state(state)

    async def record(
        self, connection: Connection, confirmed: int | None, state: ConnectionState
    ) -> int:
        """Keep a new state beside the one that the client confirmed; returns its number."""
        number = secrets.randbits(NUMBER_BITS)
        tx = Transaction()
        storage.replace_states(
            tx, connection, kept=confirmed, number=number, state=pack_state(state),
            now_ms=self._clock.now_ms(),
        )  # fmt: skip
        if confirmed is None:
            others = await storage.other_connections(self._db, connection)
            surplus = others[MAX_CONNECTIONS - 1 :]
            if surplus:
                storage.delete_connections(tx, connection.user_id, connection.device_id, surplus)
        await self._db.commit(tx)
        return number

    def forget_devices(
        self, tx: Transaction, user_id: UserID, device_ids: Sequence[DeviceID]
    ) -> None:
        """Record the end of these devices' connections."""
        storage.delete_devices(tx, user_id, device_ids)

    async def run(self) -> None:
        """Expire connections now and every hour."""
        while True:
            await self.tidy()
            await asyncio.sleep(EVERY_S)

    async def tidy(self) -> None:
        """Expire the connections that nobody uses."""
        tx = Transaction()
        storage.delete_unused(tx, self._clock.now_ms() - LIFETIME_MS)
        await self._db.commit(tx)
