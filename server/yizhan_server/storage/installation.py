"""What the database knows of the installation it belongs to."""

from __future__ import annotations

from yizhan_database import Database, Transaction


async def find_server_name(db: Database) -> str | None:
    """Return the name under which the database was first used."""
    row = await db.row("SELECT server_name FROM installation WHERE one = 1")
    return None if row is None else row[0]


def set_server_name(tx: Transaction, server_name: str) -> None:
    """Record the name of a new installation. A guard: it is set once."""
    tx.guard(
        "INSERT INTO installation (one, server_name) VALUES (1, ?) ON CONFLICT DO NOTHING",
        server_name,
    )
