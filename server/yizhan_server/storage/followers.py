"""How far each follower of the stream has come."""

from __future__ import annotations

from yizhan_database import Database, Transaction


async def find_cursor(db: Database, name: str) -> int:
    """Return the position up to which a follower has dealt with the stream; 0 at first."""
    row = await db.row("SELECT pos FROM follower WHERE name = ?", name)
    return 0 if row is None else row[0]


def advance_cursor(tx: Transaction, name: str, pos: int) -> None:
    """Record that a follower has dealt with everything up to `pos`."""
    tx.execute(
        "INSERT INTO follower (name, pos) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET pos = excluded.pos WHERE follower.pos < excluded.pos",
        name, pos,
    )  # fmt: skip
