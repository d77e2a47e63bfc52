"""Rooms that nobody of this server may enter, and rooms that are being removed."""

from __future__ import annotations

from yizhan_database import Database, Transaction


async def find_block(db: Database, room_id: str) -> str | None:
    """Return who blocked a room, or None; '' while the room is being removed."""
    row = await db.row("SELECT actor FROM room_block WHERE room_id = ?", room_id)
    if row is not None:
        return str(row[0])
    row = await db.row("SELECT 1 FROM room_removal WHERE room_id = ?", room_id)
    return None if row is None else ""


def replace_block(tx: Transaction, room_id: str, actor: str, now_ms: int) -> None:
    """Block a room, known here or not."""
    tx.execute(
        "INSERT INTO room_block (room_id, actor, ts_ms) VALUES (?, ?, ?)"
        " ON CONFLICT (room_id) DO UPDATE SET actor = excluded.actor, ts_ms = excluded.ts_ms",
        room_id, actor, now_ms,
    )  # fmt: skip


def delete_block(tx: Transaction, room_id: str) -> None:
    """Let a room be entered again."""
    tx.execute("DELETE FROM room_block WHERE room_id = ?", room_id)


async def rooms_in_removal(db: Database) -> list[str]:
    """Return the rooms whose removal has begun and not ended."""
    rows = await db.rows(
        "SELECT room_id FROM room_removal /* scan: as many as an administrator has just named */"
    )
    return [room_id for (room_id,) in rows]


def append_removal(tx: Transaction, room_id: str) -> None:
    """Record that the removal of a room begins."""
    tx.execute("INSERT INTO room_removal (room_id) VALUES (?) ON CONFLICT DO NOTHING", room_id)


def delete_removal(tx: Transaction, room_id: str) -> None:
    """Record that the removal of a room has ended."""
    tx.execute("DELETE FROM room_removal WHERE room_id = ?", room_id)
