"""Which servers are in a room, as intervals of positions of its current line.

An interval that has not ended has `to_pos` 0. The counts move in SQL alone, so that jobs that
are built on one another need not know what the earlier ones found.
"""

from __future__ import annotations

from collections.abc import Collection

from yizhan_database import Database, Pos, Transaction, in_list


def append_member(tx: Transaction, room: int, server: str, pos: Pos) -> None:
    """Count one more joined user of a server, whose first one brings it into the room."""
    tx.execute(
        "INSERT INTO room_server (room, server, to_pos, from_pos, joined) VALUES (?, ?, 0, ?, 1)"
        " ON CONFLICT (room, server, to_pos) DO UPDATE SET joined = room_server.joined + 1",
        room, server, pos,
    )  # fmt: skip


def append_members(tx: Transaction, room: int, counts: dict[str, int], pos: Pos) -> None:
    """Count the joined users of many servers that were not in the room before."""
    tx.execute_many(
        "INSERT INTO room_server (room, server, to_pos, from_pos, joined) VALUES (?, ?, 0, ?, ?)"
        " ON CONFLICT (room, server, to_pos) DO UPDATE SET"
        " joined = room_server.joined + excluded.joined",
        [(room, server, pos, joined) for server, joined in counts.items()],
    )


def delete_member(tx: Transaction, room: int, server: str, pos: Pos) -> None:
    """Count one joined user of a server less; the last one ends the server's stay at `pos`."""
    tx.execute(
        "UPDATE room_server SET joined = joined - 1 WHERE room = ? AND server = ? AND to_pos = 0",
        room, server,
    )  # fmt: skip
    tx.execute(
        "UPDATE room_server SET to_pos = ? WHERE room = ? AND server = ? AND to_pos = 0"
        " AND joined <= 0",
        pos, room, server,
    )  # fmt: skip


async def servers_now(db: Database, room: int) -> list[str]:
    """Return the servers that are in a room."""
    rows = await db.rows("SELECT server FROM room_server WHERE room = ? AND to_pos = 0", room)
    return [server for (server,) in rows]


async def largest_servers(db: Database, room: int) -> list[str]:
    """Return the servers that are in a room, those with the most users first."""
    rows = await db.rows(
        "SELECT server FROM room_server WHERE room = ? AND to_pos = 0"
        " ORDER BY joined DESC, server LIMIT 50",
        room,
    )
    return [server for (server,) in rows]


async def servers_at(db: Database, room: int, pos: int) -> list[str]:
    """Return the servers that an event of position `pos` is owed to.

    Those that were in the room before it, so that a leave reaches the server that it ends.
    """
    rows = await db.rows(
        "SELECT DISTINCT server FROM room_server WHERE room = ? AND from_pos < ?"
        " AND (to_pos = 0 OR to_pos >= ?)",
        room, pos, pos,
    )  # fmt: skip
    return [server for (server,) in rows]


async def is_in_room(db: Database, room: int, server: str) -> bool:
    """Whether a server has a joined user in a room."""
    row = await db.row(
        "SELECT 1 FROM room_server WHERE room = ? AND server = ? AND to_pos = 0", room, server
    )
    return row is not None


async def end_of_stay(db: Database, room: int, server: str) -> int | None:
    """Return the position that ended a server's last stay in a room.

    0 while it is there; None if it never was.
    """
    row = await db.row(
        "SELECT min(to_pos), max(to_pos) FROM room_server WHERE room = ? AND server = ?",
        room, server,
    )  # fmt: skip
    if row is None or row[0] is None:
        return None
    return 0 if row[0] == 0 else int(row[1])


async def shares_a_room(db: Database, one: str, other: str) -> bool:
    """Whether two servers are in some room together."""
    row = await db.row(
        "SELECT 1 FROM room_server AS a JOIN room_server AS b"
        " ON b.room = a.room AND b.server = ? AND b.to_pos = 0"
        " WHERE a.server = ? AND a.to_pos = 0 LIMIT 1",
        one, other,
    )  # fmt: skip
    return row is not None


async def servers_of_user(db: Database, user_id: str) -> list[str]:
    """Return the servers that are in a room with a user."""
    rows = await db.rows(
        "SELECT DISTINCT s.server FROM membership AS m JOIN room_server AS s"
        " ON s.room = m.room AND s.to_pos = 0 WHERE m.user_id = ? AND m.membership = 'join'",
        user_id,
    )
    return [server for (server,) in rows]


async def is_in_room_with(db: Database, server: str, user_id: str) -> bool:
    """Whether a server is in some room with a user."""
    row = await db.row(
        "SELECT 1 FROM membership AS m JOIN room_server AS s"
        " ON s.room = m.room AND s.server = ? AND s.to_pos = 0"
        " WHERE m.user_id = ? AND m.membership = 'join' LIMIT 1",
        server, user_id,
    )  # fmt: skip
    return row is not None


async def rooms_joined_within(db: Database, after: int, upto: int) -> list[int]:
    """Return the rooms in which somebody's membership became `join` in (after, upto]."""
    rows = await db.rows(
        "SELECT DISTINCT room FROM membership WHERE pos > ? AND pos <= ? AND membership = 'join'",
        after, upto,
    )  # fmt: skip
    return [room for (room,) in rows]


async def stays_now(db: Database, room: int) -> dict[str, int]:
    """Return the servers that are in a room, each with the position of its first join."""
    rows = await db.rows(
        "SELECT server, from_pos FROM room_server WHERE room = ? AND to_pos = 0", room
    )
    return dict(rows)


async def joined_after(db: Database, room: int, users: Collection[str], after: int) -> list[str]:
    """Return which of these users' memberships of a room became `join` after a position."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id FROM membership WHERE room = ? AND user_id IN (??)"
            " AND membership = 'join' AND pos > ?",
            room, users, after,
        )
    )  # fmt: skip
    return [user_id for (user_id,) in rows]
