"""Profile fields of local users, one row each, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_database import in_list
from yizhan_server.protocol.identifiers import UserID

if TYPE_CHECKING:
    from collections.abc import Collection

    from yizhan_database import Database, Transaction


async def find_fields(db: Database, user_id: str) -> dict[str, bytes]:
    """Return all fields of a profile, by name, as JSON."""
    rows = await db.rows(
        "SELECT field, value FROM profile_field WHERE user_id = ? ORDER BY field", user_id
    )
    return dict(rows)


async def find_field_of(
    db: Database, user_ids: Collection[UserID], field: str
) -> dict[UserID, bytes]:
    """Return one field of many users, as JSON, of those who have it."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, value FROM profile_field WHERE user_id IN (??) AND field = ?",
            list(user_ids),
            field,
        )
    )
    return {UserID(user_id): value for user_id, value in rows}


def upsert_field(tx: Transaction, user_id: UserID, field: str, value: bytes) -> None:
    """Set a field."""
    tx.execute(
        "INSERT INTO profile_field (user_id, field, value) VALUES (?, ?, ?)"
        " ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value",
        user_id, field, value,
    )  # fmt: skip


def delete_field(tx: Transaction, user_id: UserID, field: str) -> None:
    """Remove a field."""
    tx.execute("DELETE FROM profile_field WHERE user_id = ? AND field = ?", user_id, field)


def delete_profile(tx: Transaction, user_id: UserID) -> None:
    """Remove every field."""
    tx.execute("DELETE FROM profile_field WHERE user_id = ?", user_id)
