"""The record of what administrators did: appended, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction

LATEST = 2**62
"""Greater than any entry's number."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act."""

    nid: int
    ts_ms: int
    actor: str
    action: str
    subject: str
    details: str
    """JSON, free of secrets."""


def insert_audit_entry(tx: Transaction, entry: AuditEntry) -> None:
    """Record an act in the transaction that performs it."""
    tx.execute(
        "INSERT INTO audit_log (nid, ts_ms, actor, action, subject, details)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        entry.nid, entry.ts_ms, entry.actor, entry.action, entry.subject, entry.details,
    )  # fmt: skip


async def find_audit_entries(db: Database, before: int, limit: int) -> list[AuditEntry]:
    """Return the latest entries with a number below `before`, newest first."""
    rows = await db.rows(
        "SELECT nid, ts_ms, actor, action, subject, details FROM audit_log"
        " WHERE nid < ? ORDER BY nid DESC LIMIT ?",
        before, limit,
    )  # fmt: skip
    return [AuditEntry(*row) for row in rows]
