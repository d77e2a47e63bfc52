"""Each person's room of server notices."""

from __future__ import annotations

from yizhan_database import Database, Transaction


async def find_notice_room(db: Database, user_id: str) -> str | None:
    """Return the room in which the server speaks to a user."""
    row = await db.row("SELECT room_id FROM server_notice_room WHERE user_id = ?", user_id)
    return None if row is None else row[0]


def replace_notice_room(tx: Transaction, user_id: str, room_id: str) -> None:
    """Make this the room in which the server speaks to a user."""
    tx.execute(
        "INSERT INTO server_notice_room (user_id, room_id) VALUES (?, ?)"
        " ON CONFLICT (user_id) DO UPDATE SET room_id = excluded.room_id",
        user_id, room_id,
    )  # fmt: skip
