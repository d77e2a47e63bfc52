"""Every room, with what a list of them shows and counts; read off the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from yizhan_database import Database, Row


@dataclass(frozen=True, slots=True)
class ListedRoom:
    """A room, and what is counted of it."""

    nid: int
    room_id: str
    joined: int
    state_events: int
    is_published: bool


_COUNTS = (
    "r.nid, r.room_id, (SELECT count(*) FROM membership AS m"
    " WHERE m.room = r.nid AND m.membership = 'join'),"
    " (SELECT count(DISTINCT c.key) FROM current_state AS c WHERE c.room = r.nid),"
    " EXISTS (SELECT 1 FROM room_published AS p WHERE p.room = r.nid)"
)


async def scan_listed_rooms(db: Database) -> AsyncIterator[ListedRoom]:
    """Yield every room."""
    sql = f"SELECT {_COUNTS} FROM room AS r WHERE r.nid > ? ORDER BY r.nid LIMIT ?"
    async for row in db.scan(sql, after=0):
        yield _listed(row)


async def find_listed_room(db: Database, room: int) -> ListedRoom | None:
    """Return one room."""
    row = await db.row(f"SELECT {_COUNTS} FROM room AS r WHERE r.nid = ?", room)
    return None if row is None else _listed(row)


def _listed(row: Row) -> ListedRoom:
    nid, room_id, joined, state_events, published = row
    return ListedRoom(nid, room_id, joined, state_events, bool(published))


async def count_devices(db: Database, room: int) -> int:
    """Return how many devices the members of this server have."""
    row = await db.row(
        "SELECT count(*) FROM membership AS m JOIN device AS d ON d.user_id = m.user_id"
        " WHERE m.room = ? AND m.membership = 'join'",
        room,
    )
    return 0 if row is None else int(row[0])


async def is_forgotten(db: Database, room: int) -> bool:
    """Whether nobody wants to know of the room any more."""
    return (
        await db.row("SELECT 1 FROM membership WHERE room = ? AND forgotten = 0 LIMIT 1", room)
        is None
    )
