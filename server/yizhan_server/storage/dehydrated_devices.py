"""Dehydrated devices; a device that was ended is one no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import DeviceID, UserID

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


async def find_dehydrated_device(db: Database, user_id: UserID) -> tuple[DeviceID, bytes] | None:
    """Return (device, its data as JSON) of the user's dehydrated device."""
    row = await db.row(
        "SELECT h.device_id, h.device_data FROM dehydrated_device AS h"
        " JOIN device AS d ON d.user_id = h.user_id AND d.device_id = h.device_id"
        " WHERE h.user_id = ?",
        user_id,
    )
    return None if row is None else (DeviceID(row[0]), row[1])


def replace_dehydrated_device(
    tx: Transaction, user_id: UserID, device_id: DeviceID, device_data: bytes
) -> None:
    """Make this the user's dehydrated device."""
    tx.execute(
        "INSERT INTO dehydrated_device (user_id, device_id, device_data) VALUES (?, ?, ?)"
        " ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id,"
        " device_data = excluded.device_data",
        user_id, device_id, device_data,
    )  # fmt: skip


def delete_dehydrated_device(tx: Transaction, user_id: UserID) -> None:
    """Forget which device it was."""
    tx.execute("DELETE FROM dehydrated_device WHERE user_id = ?", user_id)
