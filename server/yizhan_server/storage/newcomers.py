"""Whose memberships of a room changed within a window of the stream."""

from __future__ import annotations

from yizhan_database import Database


async def users_with_member_events(db: Database, room: int, after: int, upto: int) -> set[str]:
    """Return the users whose current member event of the room is from (after, upto]."""
    rows = await db.rows(
        "SELECT DISTINCT k.state_key FROM current_state AS c JOIN state_key AS k ON k.nid = c.key"
        " WHERE c.room = ? AND c.pos > ? AND c.pos <= ? AND k.type = 'm.room.member'",
        room, after, upto,
    )  # fmt: skip
    return {user_id for (user_id,) in rows}
