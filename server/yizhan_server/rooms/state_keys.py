"""The numbers of state keys, kept in memory: every event names a few of the same ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from yizhan_database import Database, Transaction
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import StateKey

CACHED_KEYS = 50_000
PORTION = 500
"""Keys that become durable together, where there are many."""


class StateKeys:
    """Interns (type, state key) pairs."""

    def __init__(self, db: Database, numbers: Numbers) -> None:
        self._db = db
        self._numbers = numbers
        self._committed: OrderedDict[StateKey, int] = OrderedDict()
        self._pending: dict[StateKey, int] = {}

    async def find(self, key: StateKey) -> int | None:
        """Return the number of a key that some room has had."""
        nid = self._committed.get(key)
        if nid is None:
            nid = await stored_state.find_key(self._db, key)
            if nid is not None:
                self._remember(key, nid)
        return nid

    async def intern(self, tx: Transaction, key: StateKey) -> int:
        """Return the number of a key; a new one becomes durable with `tx`.

        Jobs that are enqueued at the same time all record a new key, with the same number,
        so that it does not matter which of them fails.
        """
        nid = await self.find(key)
        return await self._intern_unknown(tx, key) if nid is None else nid

    async def _intern_unknown(self, tx: Transaction, key: StateKey) -> int:
        """Do so for a key that the database has just not known."""
        nid = self._committed.get(key)  # it may have become durable while the database was asked
        if nid is not None:
            return nid
        pending = self._pending.get(key)
        if pending is None:
            pending = await self._numbers.next("state_key")
            pending = self._pending.setdefault(key, pending)
        number = pending
        stored_state.intern_key(tx, number, key)
        tx.after_commit(lambda _: self._commit(key, number))
        return number

    async def intern_all(self, keys: Sequence[StateKey]) -> dict[StateKey, int]:
        """Return the numbers of many keys, all of them durable."""
        numbers: dict[StateKey, int] = {}
        for start in range(0, len(keys), PORTION):
            portion = keys[start : start + PORTION]
            numbers |= await stored_state.find_keys(self._db, portion)
            tx = Transaction()
            for key in portion:
                if key not in numbers:
                    numbers[key] = await self._intern_unknown(tx, key)
            if tx.operations:
                await self._db.commit(tx)
        return numbers

    def forget_pending(self) -> None:
        """Drop the numbers that a failed job may have been refused: another worker has them."""
        self._pending.clear()

    def _commit(self, key: StateKey, nid: int) -> None:
        self._pending.pop(key, None)
        self._remember(key, nid)

    def _remember(self, key: StateKey, nid: int) -> None:
        self._committed[key] = nid
        while len(self._committed) > CACHED_KEYS:
            self._committed.popitem(last=False)
