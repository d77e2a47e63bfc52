"""Changes of memberships of rooms that this server is not in, in the order of the stream."""

from __future__ import annotations

from yizhan_database import Database, Pos, Transaction
from yizhan_server.storage.pushers import Notice


def append_change(tx: Transaction, room: int, user_id: str, event: int, pos: Pos) -> None:
    """Note that a member event without a position took effect at `pos`."""
    tx.execute(
        "INSERT INTO out_of_band (pos, room, user_id, event) VALUES (?, ?, ?, ?)",
        pos, room, user_id, event,
    )  # fmt: skip


def delete_changes(tx: Transaction, room: int) -> None:
    """Forget those of a room."""
    tx.execute("DELETE FROM out_of_band WHERE room = ?", room)


async def last_change(db: Database, room: int, user_id: str, upto: int) -> tuple[int, int] | None:
    """Return (event, pos) of the last change of a user's membership of a room up to `upto`."""
    row = await db.row(
        "SELECT event, pos FROM out_of_band WHERE user_id = ? AND pos <= ? AND room = ?"
        " ORDER BY pos DESC LIMIT 1",
        user_id, upto, room,
    )  # fmt: skip
    return None if row is None else (row[0], row[1])


async def changes_within(
    db: Database, after: int, upto: int, limit: int
) -> list[tuple[int, int, str, int]]:
    """Return (pos, room, user, event) of the first changes in (after, upto]."""
    rows = await db.rows(
        "SELECT pos, room, user_id, event FROM out_of_band WHERE pos > ? AND pos <= ?"
        " ORDER BY pos LIMIT ?",
        after, upto, limit,
    )  # fmt: skip
    return [(pos, room, user_id, event) for pos, room, user_id, event in rows]


async def notices_after(
    db: Database, user_id: str, after: int, upto: int, limit: int
) -> list[Notice]:
    """Return the first invitations in (after, upto] that notify the user and still stand."""
    rows = await db.rows(
        "SELECT o.pos, o.event, o.room, e.flags, x.tweaks FROM out_of_band AS o"
        " JOIN membership AS m ON m.room = o.room AND m.user_id = o.user_id"
        " AND m.event = o.event AND m.membership = 'invite'"
        " JOIN event AS e ON e.nid = o.event"
        " LEFT JOIN push_exception AS x"
        " ON x.room = o.room AND x.user_id = o.user_id AND x.pos = o.pos"
        " WHERE o.user_id = ? AND o.pos > ? AND o.pos <= ?"
        " AND (e.flags & 1) + coalesce(x.notify, 0) > 0 ORDER BY o.pos LIMIT ?",
        user_id, after, upto, limit,
    )  # fmt: skip
    return [Notice(*row) for row in rows]
