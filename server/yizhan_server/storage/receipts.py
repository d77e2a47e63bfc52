"""Read receipts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from yizhan_database import Database, Pos, Transaction

UNTHREADED = ""


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """How far a user has read a room or one of its threads."""

    user_id: str
    type: str
    thread: str
    event_id: str
    event_pos: int
    ts_ms: int


_COLUMNS = "user_id, type, thread, event_id, event_pos, ts_ms"


def advance_receipt(tx: Transaction, room: int, receipt: StoredReceipt, pos: Pos) -> None:
    """Move a receipt forward.

    A guard: it fails when the receipt is already there or further, since receipts never move back.
    """
    tx.guard(
        f"INSERT INTO receipt (room, {_COLUMNS}, pos) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (room, user_id, type, thread) DO UPDATE SET event_id = excluded.event_id,"
        " event_pos = excluded.event_pos, ts_ms = excluded.ts_ms, pos = excluded.pos"
        " WHERE receipt.event_pos < excluded.event_pos",
        room, receipt.user_id, receipt.type, receipt.thread, receipt.event_id, receipt.event_pos,
        receipt.ts_ms, pos,
    )  # fmt: skip


async def users_who_read(db: Database, after: int, upto: int) -> set[str]:
    """Return the users who moved a receipt in (after, upto]."""
    rows = await db.rows(
        "SELECT DISTINCT user_id FROM receipt WHERE pos > ? AND pos <= ?", after, upto
    )
    return {user_id for (user_id,) in rows}


async def receipts_of_user(db: Database, room: int, user_id: str) -> list[StoredReceipt]:
    """Return a user's receipts of every type and thread of a room."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM receipt WHERE room = ? AND user_id = ?", room, user_id
    )
    return [StoredReceipt(*row) for row in rows]


async def receipts_beside(
    db: Database, room: int, first_pos: int, user_id: str, upto: int
) -> list[StoredReceipt]:
    """Return the receipts at events from `first_pos` on, and all of one user, set by `upto`."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM receipt WHERE room = ? AND pos <= ?"
        " AND (event_pos >= ? OR user_id = ?)",
        room, upto, first_pos, user_id,
    )  # fmt: skip
    return [StoredReceipt(*row) for row in rows]


async def rooms_read_by(db: Database, user_id: str, after: int, upto: int) -> set[int]:
    """Return the rooms where a receipt of this user moved in (after, upto]."""
    rows = await db.rows(
        "SELECT DISTINCT room FROM receipt WHERE pos > ? AND pos <= ? AND user_id = ?",
        after, upto, user_id,
    )  # fmt: skip
    return {room for (room,) in rows}


async def receipts_changed(db: Database, room: int, after: int, upto: int) -> list[StoredReceipt]:
    """Return the receipts of a room that moved in (after, upto]."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM receipt WHERE room = ? AND pos > ? AND pos <= ?",
        room, after, upto,
    )  # fmt: skip
    return [StoredReceipt(*row) for row in rows]


async def rooms_with_receipts(
    db: Database, rooms: Collection[int], reader: str, after: int, upto: int
) -> set[int]:
    """Return those of `rooms` where a receipt that `reader` may know of moved in (after, upto]."""
    if not rooms:
        return set()
    rows = await db.rows(
        "SELECT DISTINCT room FROM receipt WHERE pos > ? AND pos <= ?"
        " AND (type = 'm.read' OR user_id = ?)",
        after, upto, reader,
    )  # fmt: skip
    return {room for (room,) in rows} & set(rooms)


async def judged_events(
    db: Database, room: int, after: int, upto: int, limit: int
) -> list[tuple[int, str | None, int, str]]:
    """Return (pos, thread, flags, sender) of the live events in (after, upto], newest first."""
    rows = await db.rows(
        "SELECT pos, thread, flags, sender FROM event WHERE room = ? AND pos > ? AND pos <= ?"
        " ORDER BY pos DESC LIMIT ?",
        room, after, upto, limit,
    )  # fmt: skip
    return [(pos, thread, flags, sender) for pos, thread, flags, sender in rows]
