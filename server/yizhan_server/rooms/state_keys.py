"""The numbers of state keys, kept in memory: every event names a few of the same ones."""

from __future__ import annotations

from collections import OrderedDict

from yizhan_database import Database, Transaction
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import StateKey

CACHED_KEYS = 50_000


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
        if nid is None:
            # It may have become durable while the database was asked.
            nid = self._committed.get(key)
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
