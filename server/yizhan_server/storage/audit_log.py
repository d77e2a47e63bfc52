"""The record of what administrators did: appended, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act."""

    ts_ms: int
    actor: str
    action: str
    subject: str
    details: str
    """JSON, free of secrets."""


def insert_audit_entry(tx: Transaction, nid: int, entry: AuditEntry) -> None:
    """Record an act in the transaction that performs it."""
    tx.execute(
        "INSERT INTO audit_log (nid, ts_ms, actor, action, subject, details)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        nid, entry.ts_ms, entry.actor, entry.action, entry.subject, entry.details,
    )  # fmt: skip


async def find_audit_entries(db: Database, limit: int) -> list[AuditEntry]:
    """Return the latest entries, newest first."""
    rows = await db.rows(
        "SELECT ts_ms, actor, action, subject, details FROM audit_log"
        " /* scan: the newest rows by the primary key, bounded */ ORDER BY nid DESC LIMIT ?",
        limit,
    )
    return [AuditEntry(*row) for row in rows]
