"""Events in the order in which they arrived, for those who read forward."""

from __future__ import annotations

from yizhan_database import Database
from yizhan_server.storage.events import COLUMNS, StoredEvent, event_from


async def first_events_after(
    db: Database, room: int, after: int, upto: int, limit: int
) -> list[StoredEvent]:
    """Return at most `limit` live events with after < pos <= upto, the *first* ones, ascending."""
    rows = await db.rows(
        f"SELECT {COLUMNS} FROM event WHERE room = ? AND pos > ? AND pos <= ?"
        " ORDER BY pos LIMIT ?",
        room, after, upto, limit,
    )  # fmt: skip
    return [event_from(row) for row in rows]
