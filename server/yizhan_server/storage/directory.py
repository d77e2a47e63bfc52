"""Reading all people and all listed rooms, off the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

from yizhan_database import Database


async def scan_people(db: Database) -> AsyncIterator[tuple[str, bytes | None, bytes | None]]:
    """Yield (user id, display name, avatar) of every account in use; the latter as JSON."""
    sql = (
        "SELECT a.user_id, n.value, p.value FROM account AS a"
        " LEFT JOIN profile_field AS n ON n.user_id = a.user_id AND n.field = 'displayname'"
        " LEFT JOIN profile_field AS p ON p.user_id = a.user_id AND p.field = 'avatar_url'"
        " WHERE a.deactivated_ms IS NULL AND a.user_id > ? ORDER BY a.user_id LIMIT ?"
    )
    async for user_id, name, avatar in db.scan(sql, after=""):
        yield user_id, name, avatar


async def scan_published_rooms(db: Database) -> AsyncIterator[tuple[int, str, int]]:
    """Yield (number, room id, joined members) of every listed room."""
    sql = (
        "SELECT r.nid, r.room_id, (SELECT count(*) FROM membership AS m"
        " WHERE m.room = r.nid AND m.membership = 'join')"
        " FROM room_published AS p JOIN room AS r ON r.nid = p.room"
        " WHERE r.nid > ? ORDER BY r.nid LIMIT ?"
    )
    async for nid, room_id, joined in db.scan(sql, after=0):
        yield nid, room_id, joined
