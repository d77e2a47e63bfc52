"""Events to be sent later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class DelayedEvent:
    """One event that waits; times in milliseconds since the epoch."""

    delay_id: str
    user_id: str
    device_id: str
    room_id: str
    type: str
    state_key: str | None
    content: bytes
    """JSON."""
    delay_ms: int
    since_ms: int
    due_ms: int
    pos: int


_COLUMNS = (
    "delay_id, user_id, device_id, room_id, type, state_key, content, delay_ms, since_ms,"
    " due_ms, pos"
)


def insert_delayed(tx: Transaction, delayed: DelayedEvent) -> None:
    """Keep an event for later."""
    tx.execute(
        f"INSERT INTO delayed_event ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        delayed.delay_id, delayed.user_id, delayed.device_id, delayed.room_id, delayed.type,
        delayed.state_key, delayed.content, delayed.delay_ms, delayed.since_ms, delayed.due_ms,
        delayed.pos,
    )  # fmt: skip


def restart_delayed(tx: Transaction, delay_id: str, since_ms: int, due_ms: int) -> None:
    """Begin a delay anew. A guard: it fails when the event is gone."""
    tx.guard(
        "UPDATE delayed_event SET since_ms = ?, due_ms = ? WHERE delay_id = ?",
        since_ms, due_ms, delay_id,
    )  # fmt: skip


def delete_delayed(tx: Transaction, delay_id: str) -> None:
    """Forget an event. A guard: it fails when it is gone already."""
    tx.guard("DELETE FROM delayed_event WHERE delay_id = ?", delay_id)


async def find_delayed(db: Database, delay_id: str) -> DelayedEvent | None:
    """Return one delayed event."""
    row = await db.row(f"SELECT {_COLUMNS} FROM delayed_event WHERE delay_id = ?", delay_id)
    return None if row is None else DelayedEvent(*row)


async def find_delayed_of_user(db: Database, user_id: str) -> list[DelayedEvent]:
    """Return a user's delayed events, the next one first."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM delayed_event WHERE user_id = ? ORDER BY due_ms", user_id
    )
    return [DelayedEvent(*row) for row in rows]


async def find_due(db: Database, now_ms: int, limit: int) -> list[DelayedEvent]:
    """Return the first events that are due."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM delayed_event WHERE due_ms <= ? ORDER BY due_ms LIMIT ?",
        now_ms, limit,
    )  # fmt: skip
    return [DelayedEvent(*row) for row in rows]


async def next_due(db: Database, now_ms: int) -> int | None:
    """Return when the next event is due that is not yet."""
    row = await db.row(
        "SELECT due_ms FROM delayed_event WHERE due_ms > ? ORDER BY due_ms LIMIT 1", now_ms
    )
    return None if row is None else row[0]
