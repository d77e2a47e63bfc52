"""Room aliases, and which rooms the public directory lists."""

from __future__ import annotations

from dataclasses import dataclass

from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class StoredAlias:
    """An alias of this server."""

    room_id: str
    creator: str


async def find_alias(db: Database, alias: str) -> StoredAlias | None:
    """Return what an alias names."""
    row = await db.row(
        "SELECT r.room_id, a.creator FROM room_alias AS a JOIN room AS r ON r.nid = a.room"
        " WHERE a.alias = ?",
        alias,
    )
    return None if row is None else StoredAlias(*row)


async def aliases_of_room(db: Database, room: int) -> list[str]:
    """Return a room's aliases in order."""
    rows = await db.rows("SELECT alias FROM room_alias WHERE room = ? ORDER BY alias", room)
    return [alias for (alias,) in rows]


def append_alias(tx: Transaction, alias: str, room: int, creator: str) -> None:
    """Record an alias. A guard: it fails when the alias is taken."""
    tx.guard(
        "INSERT INTO room_alias (alias, room, creator) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        alias, room, creator,
    )  # fmt: skip


def move_aliases(tx: Transaction, old: int, new: int) -> None:
    """Let every alias of one room name another."""
    tx.execute("UPDATE room_alias SET room = ? WHERE room = ?", new, old)


def delete_alias(tx: Transaction, alias: str) -> None:
    """Remove an alias."""
    tx.execute("DELETE FROM room_alias WHERE alias = ?", alias)


async def is_published(db: Database, room: int) -> bool:
    """Whether the directory lists a room."""
    return await db.row("SELECT 1 FROM room_published WHERE room = ?", room) is not None


def append_published(tx: Transaction, room: int) -> None:
    """List a room."""
    tx.execute("INSERT INTO room_published (room) VALUES (?) ON CONFLICT DO NOTHING", room)


def delete_published(tx: Transaction, room: int) -> None:
    """Unlist a room."""
    tx.execute("DELETE FROM room_published WHERE room = ?", room)
