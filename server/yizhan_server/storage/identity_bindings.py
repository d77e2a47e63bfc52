"""Addresses that were published at identity servers through this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


def upsert_binding(
    tx: Transaction, user_id: str, medium: str, address: str, id_server: str
) -> None:
    """Note that an address is published."""
    tx.execute(
        "INSERT INTO identity_binding (user_id, medium, address, id_server) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        user_id, medium, address, id_server,
    )  # fmt: skip


def delete_binding(
    tx: Transaction, user_id: str, medium: str, address: str, id_server: str
) -> None:
    """Note that an address is published there no longer."""
    tx.execute(
        "DELETE FROM identity_binding"
        " WHERE user_id = ? AND medium = ? AND address = ? AND id_server = ?",
        user_id, medium, address, id_server,
    )  # fmt: skip


async def find_bindings(db: Database, user_id: str) -> list[tuple[str, str, str]]:
    """Return (medium, address, identity server) of all that a user published."""
    rows = await db.rows(
        "SELECT medium, address, id_server FROM identity_binding WHERE user_id = ?", user_id
    )
    return [(medium, address, id_server) for medium, address, id_server in rows]
