"""Events that notified a user, newest first."""

from __future__ import annotations

from yizhan_database import Database
from yizhan_server.storage.pushers import Notice


async def notices_before(
    db: Database, user_id: str, after: int, before: int, limit: int, *, highlights_only: bool
) -> list[Notice]:
    """Return the last events in (after, before) that notify the user, own events left out."""
    rows = await db.rows(
        "SELECT e.pos, e.nid, e.room, e.flags, x.tweaks FROM event AS e"
        " JOIN membership AS m ON m.room = e.room AND m.user_id = ?"
        " AND (m.membership = 'join' OR m.event = e.nid)"
        " LEFT JOIN push_exception AS x"
        " ON x.room = e.room AND x.user_id = ? AND x.pos = e.pos"
        " WHERE e.pos > ? AND e.pos < ? AND e.sender <> ?"
        " AND (e.flags & 1) + coalesce(x.notify, 0) > 0"
        " AND (? = 0 OR (e.flags & 2) / 2 + coalesce(x.highlight, 0) > 0)"
        " ORDER BY e.pos DESC LIMIT ?",
        user_id, user_id, after, before, user_id, int(highlights_only), limit,
    )  # fmt: skip
    return [Notice(*row) for row in rows]
