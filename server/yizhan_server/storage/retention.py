"""What retention needs: the rooms, how far each is erased, and what is due."""

from __future__ import annotations

from collections.abc import AsyncIterator

from yizhan_database import Database, Transaction
from yizhan_server.storage.events import REDACTED


async def scan_rooms(db: Database) -> AsyncIterator[tuple[int, str, int]]:
    """Yield (number, room id, erased up to) of every room."""
    sql = (
        "SELECT r.nid, r.room_id, coalesce(t.upto_ms, 0) FROM room AS r"
        " LEFT JOIN retention AS t ON t.room = r.nid WHERE r.nid > ? ORDER BY r.nid LIMIT ?"
    )
    async for nid, room_id, upto_ms in db.scan(sql, after=0):
        yield nid, room_id, upto_ms


async def find_due(
    db: Database, room: int, after_ms: int, upto_ms: int, limit: int
) -> list[tuple[int, str, int]]:
    """Return (number, event id, time) of the first events, state left out, in (after, upto]."""
    rows = await db.rows(
        "SELECT nid, event_id, ts_ms FROM event WHERE room = ? AND ts_ms > ? AND ts_ms <= ?"
        " AND state_key IS NULL ORDER BY ts_ms LIMIT ?",
        room, after_ms, upto_ms, limit,
    )  # fmt: skip
    return [(nid, event_id, ts_ms) for nid, event_id, ts_ms in rows]


def erase_event(tx: Transaction, nid: int, pruned: tuple[bytes, bytes]) -> None:
    """Replace an event by its pruned form."""
    tx.execute(
        f"UPDATE event SET client = ?, rest = ?, flags = flags | {REDACTED} WHERE nid = ?",
        *pruned, nid,
    )  # fmt: skip


def advance_retention(tx: Transaction, room: int, upto_ms: int) -> None:
    """Record that a room is erased up to a time."""
    tx.execute(
        "INSERT INTO retention (room, upto_ms) VALUES (?, ?)"
        " ON CONFLICT (room) DO UPDATE SET upto_ms = excluded.upto_ms",
        room, upto_ms,
    )  # fmt: skip
