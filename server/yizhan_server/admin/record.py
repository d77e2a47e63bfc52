"""The record of what administrators did: who, what, to whom, when; no secret and no content.

An act that is one commit takes its entry into that commit. One that is several is entered before
it begins, so that nothing happens which is not on the record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from yizhan_database import Transaction
from yizhan_server.accounts.text import check_text
from yizhan_server.storage.audit_log import (
    LATEST,
    AuditEntry,
    find_audit_entries,
    insert_audit_entry,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.storage.numbers import Numbers

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that waits for the transaction which makes it true."""

    entry: AuditEntry

    def __call__(self, tx: Transaction, subject: str) -> None:
        """Enter the act in `tx`."""
        insert_audit_entry(tx, replace(self.entry, subject=subject))

    def about(self, subject: str) -> Callable[[Transaction], None]:
        """Return what enters the act upon `subject` in a transaction."""
        return lambda tx: self(tx, subject)


class Record:
    """Keeps the record, and shows it."""

    def __init__(self, db: Database, numbers: Numbers, clock: Clock) -> None:
        self._db = db
        self._numbers = numbers
        self._clock = clock

    async def begin(self, actor: str, action: str, details: JsonObject | None = None) -> Entry:
        """Return an entry for an act that is about to be committed."""
        return Entry(
            AuditEntry(
                await self._numbers.next("audit_log"),
                self._clock.now_ms(),
                check_text(actor, "The actor"),
                action,
                "",
                orjson.dumps(details or {}).decode(),
            ),
        )

    async def note(
        self, actor: str, action: str, subject: str, details: JsonObject | None = None
    ) -> None:
        """Enter an act by itself; durable when this returns."""
        entry = await self.begin(actor, action, details)
        tx = Transaction()
        entry(tx, subject)
        await self._db.commit(tx)

    async def list_latest(self, limit: int, before: int = LATEST) -> list[JsonObject]:
        """Return the latest entries with a number below `before`, newest first."""
        return [
            {
                "id": entry.nid,
                "ts_ms": entry.ts_ms,
                "actor": entry.actor,
                "action": entry.action,
                "subject": entry.subject,
                "details": orjson.loads(entry.details),
            }
            for entry in await find_audit_entries(self._db, before, limit)
        ]
