"""To-device messages that wait to be received."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_database import in_list

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from yizhan_database import Database, Pos, Transaction


def append_messages(tx: Transaction, messages: Iterable[tuple[str, str, bytes]], pos: Pos) -> None:
    """Queue (user, device, event) at one position; for devices that do not exist, nothing."""
    tx.execute_many(
        "INSERT INTO to_device (user_id, device_id, pos, event)"
        " SELECT user_id, device_id, ?, ? FROM device WHERE user_id = ? AND device_id = ?",
        [(pos, event, user_id, device_id) for user_id, device_id, event in messages],
    )


def append_messages_to_all(
    tx: Transaction, messages: Iterable[tuple[str, bytes]], pos: Pos
) -> None:
    """Queue (user, event) for each of the user's devices, at one position.

    Devices that already have a message at that position keep it alone.
    """
    tx.execute_many(
        "INSERT INTO to_device (user_id, device_id, pos, event)"
        " SELECT user_id, device_id, ?, ? FROM device WHERE user_id = ?"
        " ON CONFLICT DO NOTHING",
        [(pos, event, user_id) for user_id, event in messages],
    )


async def find_messages(
    db: Database, user_id: str, device_id: str, upto: int, limit: int
) -> list[tuple[int, bytes]]:
    """Return (pos, event) of the first `limit` messages up to `upto`, in order."""
    rows = await db.rows(
        "SELECT pos, event FROM to_device WHERE user_id = ? AND device_id = ? AND pos <= ?"
        " ORDER BY pos LIMIT ?",
        user_id, device_id, upto, limit,
    )  # fmt: skip
    return [(pos, event) for pos, event in rows]


async def has_messages(db: Database, user_id: str, device_id: str, upto: int) -> bool:
    """Tell whether messages wait at positions up to `upto`."""
    row = await db.row(
        "SELECT 1 FROM to_device WHERE user_id = ? AND device_id = ? AND pos <= ? LIMIT 1",
        user_id, device_id, upto,
    )  # fmt: skip
    return row is not None


def delete_messages(tx: Transaction, user_id: str, device_id: str, upto: int) -> None:
    """Delete a device's messages up to `upto`."""
    tx.execute(
        "DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND pos <= ?",
        user_id, device_id, upto,
    )  # fmt: skip


def delete_all_messages(tx: Transaction, user_id: str, device_ids: Collection[str]) -> None:
    """Delete all messages for these devices."""
    tx.execute(
        *in_list(
            "DELETE FROM to_device WHERE user_id = ? AND device_id IN (??)", user_id, device_ids
        )
    )


def append_received(tx: Transaction, origin: str, message_id: str, now_ms: int) -> None:
    """Note that another server's message has come. A guard: it fails if it had come before."""
    tx.guard(
        "INSERT INTO received_message (origin, message_id, received_ms) VALUES (?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        origin, message_id, now_ms,
    )  # fmt: skip


def forget_received(tx: Transaction, before_ms: int) -> None:
    """Forget which messages had come before a time."""
    tx.execute("DELETE FROM received_message WHERE received_ms < ?", before_ms)
