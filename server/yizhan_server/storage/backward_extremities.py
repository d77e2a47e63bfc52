"""Events that are referred to and not here: the edges of what this server knows of a room."""

from __future__ import annotations

from collections.abc import Collection

from yizhan_database import Database, Transaction, in_list


def append_missing(tx: Transaction, room: int, event_ids: Collection[str], depth: int) -> None:
    """Note that an event of `depth` refers to these, which are not here."""
    tx.execute_many(
        "INSERT INTO backward_extremity (room, event_id, depth) VALUES (?, ?, ?)"
        " ON CONFLICT (room, event_id) DO UPDATE SET depth = excluded.depth"
        " WHERE backward_extremity.depth < excluded.depth",
        [(room, event_id, depth) for event_id in event_ids],
    )


def delete_missing(tx: Transaction, room: int, event_id: str) -> None:
    """Note that the event is here now."""
    tx.execute("DELETE FROM backward_extremity WHERE room = ? AND event_id = ?", room, event_id)


def delete_below(tx: Transaction, room: int, depth: int) -> None:
    """Forget what only events of less than `depth` refer to."""
    tx.execute("DELETE FROM backward_extremity WHERE room = ? AND depth < ?", room, depth)


async def are_missing(db: Database, room: int, event_ids: Collection[str]) -> set[str]:
    """Return those of these events that others refer to and that are not here."""
    rows = await db.rows(
        *in_list(
            "SELECT event_id FROM backward_extremity WHERE room = ? AND event_id IN (??)",
            room, list(event_ids),
        )
    )  # fmt: skip
    return {event_id for (event_id,) in rows}


async def missing_between(db: Database, room: int, low: int, high: int, limit: int) -> list[str]:
    """Return missing events that events with a depth in [low, high] refer to, the latest first."""
    rows = await db.rows(
        "SELECT event_id FROM backward_extremity WHERE room = ? AND depth >= ? AND depth <= ?"
        " ORDER BY depth DESC, event_id LIMIT ?",
        room, low, high, limit,
    )  # fmt: skip
    return [event_id for (event_id,) in rows]


async def lowest_depth(db: Database, room: int) -> int:
    """Return the lowest depth of an event that refers to a missing one; 0 if none is missing."""
    row = await db.row("SELECT min(depth) FROM backward_extremity WHERE room = ?", room)
    return 0 if row is None else row[0] or 0
