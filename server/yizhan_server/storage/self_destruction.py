"""Messages that are to be erased at a time that their senders named."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yizhan_database import Database, Transaction


def insert_due(tx: Transaction, event: int, room: int, due_ms: int) -> None:
    """Note when an event is to be erased."""
    tx.execute(
        "INSERT INTO self_destruction (event, room, due_ms) VALUES (?, ?, ?)"
        " ON CONFLICT (event) DO NOTHING",
        event, room, due_ms,
    )  # fmt: skip


async def find_due(db: Database, now_ms: int, limit: int) -> list[tuple[int, int]]:
    """Return (event, room) of the first that are due."""
    rows = await db.rows(
        "SELECT event, room FROM self_destruction WHERE due_ms <= ? ORDER BY due_ms LIMIT ?",
        now_ms, limit,
    )  # fmt: skip
    return [(event, room) for event, room in rows]


async def next_due(db: Database) -> int | None:
    """Return when the next one is due."""
    row = await db.row("SELECT min(due_ms) FROM self_destruction")
    due_ms: int | None = None if row is None else row[0]
    return due_ms


def delete_due(tx: Transaction, events: Iterable[int]) -> None:
    """Forget events that were erased."""
    tx.execute_many("DELETE FROM self_destruction WHERE event = ?", [(event,) for event in events])
