"""Permission to replace one's cross-signing keys once, for who cannot confirm it otherwise.

Given by the owner on the account page, or by an administrator for somebody who lost everything;
used up by the next upload. Used up before the keys are replaced: a crash in between costs a
second visit to the page, never a second replacement.

Spec: client-server API, "OAuth authentication" (`m.oauth`); docs/guide/lost-keys.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Transaction
from yizhan_server.storage import browser_sessions as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import UserID

LIFETIME_MS = 600_000


class IdentityResets:
    """Gives and uses up the permission."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def record(self, tx: Transaction, user_id: UserID) -> None:
        """Record the permission, good for ten minutes."""
        storage.upsert_identity_reset(tx, user_id, self._clock.now_ms() + LIFETIME_MS)

    async def allow(self, user_id: UserID) -> None:
        """Give the permission."""
        tx = Transaction()
        self.record(tx, user_id)
        await self._db.commit(tx)

    async def use_up(self, user_id: UserID) -> bool:
        """Tell whether there was a permission; from now on there is none."""
        tx = Transaction()
        storage.guard_identity_reset(tx, user_id, self._clock.now_ms())
        try:
            await self._db.commit(tx)
        except GuardFailed:
            return False
        return True
