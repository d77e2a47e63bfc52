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


async def rooms_with_strangers(db: Database, own: str, user_id: str) -> list[int]:
    """Return the user's rooms, and then those that are listed, that other servers are in.

    Of both only those that the server `own` is in: of others it knows how they once were.
    """
    rows = await db.rows(
        "SELECT r.room, 0 FROM membership AS r WHERE r.user_id = ? AND r.membership = 'join'"
        " AND EXISTS (SELECT 1 FROM room_server AS s WHERE s.room = r.room AND s.to_pos = 0"
        " AND s.server <> ?)"
        " UNION SELECT p.room, 1 FROM room_published AS p"
        " JOIN room_server AS o ON o.room = p.room AND o.server = ? AND o.to_pos = 0"
        " WHERE EXISTS (SELECT 1 FROM room_server AS s WHERE s.room = p.room AND s.to_pos = 0"
        " AND s.server <> ?) ORDER BY 2, 1",
        user_id, own, own, own,
    )  # fmt: skip
    return list(dict.fromkeys(room for room, _ in rows))


async def scan_members(db: Database, room: int) -> AsyncIterator[tuple[str, bytes]]:
    """Yield (user id, member event) of everybody who is joined to a room."""
    sql = (
        "SELECT m.user_id, e.client FROM membership AS m JOIN event AS e ON e.nid = m.event"
        " WHERE m.room = ? AND m.membership = 'join' AND m.user_id > ?"
        " ORDER BY m.user_id LIMIT ?"
    )
    async for user_id, client in db.scan(sql, room, after=""):
        yield user_id, client


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
