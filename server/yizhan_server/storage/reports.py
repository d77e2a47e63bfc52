"""What people reported to the administrators: appended, read newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Report:
    """One report; what it names depends on its kind."""

    nid: int
    ts_ms: int
    reporter: str
    kind: str
    """event, room or user."""
    room_id: str | None
    event_id: str | None
    user_id: str | None
    """The reported user; of an event, its sender."""
    reason: str


def append_report(tx: Transaction, report: Report) -> None:
    """Record a report."""
    tx.execute(
        "INSERT INTO report (nid, ts_ms, reporter, kind, room_id, event_id, user_id, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        report.nid, report.ts_ms, report.reporter, report.kind, report.room_id, report.event_id,
        report.user_id, report.reason,
    )  # fmt: skip


async def find_reports(db: Database, before: int, limit: int) -> list[Report]:
    """Return the latest reports with a number below `before`, newest first."""
    rows = await db.rows(
        "SELECT nid, ts_ms, reporter, kind, room_id, event_id, user_id, reason FROM report"
        " WHERE nid < ? ORDER BY nid DESC LIMIT ?",
        before, limit,
    )  # fmt: skip
    return [Report(*row) for row in rows]
