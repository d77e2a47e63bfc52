"""The states of sliding-sync connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list

if TYPE_CHECKING:
    from collections.abc import Collection

    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of a device, by the name that the client gave it."""

    user_id: str
    device_id: str
    conn_id: str


async def find_state(db: Database, connection: Connection, number: int) -> tuple[bytes, int] | None:
    """Return (state, last use in ms) of a connection, if it is still kept."""
    row = await db.row(
        "SELECT state, used_ms FROM sliding_connection"
        " WHERE user_id = ? AND device_id = ? AND conn_id = ? AND number = ?",
        connection.user_id, connection.device_id, connection.conn_id, number,
    )  # fmt: skip
    return None if row is None else (row[0], row[1])


async def other_connections(db: Database, connection: Connection) -> list[str]:
    """Return the names of the device's other connections, the most recently used first."""
    rows = await db.rows(
        "SELECT conn_id FROM sliding_connection WHERE user_id = ? AND device_id = ?"
        " AND conn_id <> ? GROUP BY conn_id ORDER BY max(used_ms) DESC",
        connection.user_id, connection.device_id, connection.conn_id,
    )  # fmt: skip
    return [conn_id for (conn_id,) in rows]


def replace_states(
    tx: Transaction,
    connection: Connection,
    *,
    kept: int | None,
    number: int,
    state: bytes,
    now_ms: int,
) -> None:
    """Add a state and drop all others but `kept`; nothing is kept for a device that has ended."""
    tx.execute(
        "DELETE FROM sliding_connection"
        " WHERE user_id = ? AND device_id = ? AND conn_id = ? AND number <> ?",
        connection.user_id, connection.device_id, connection.conn_id,
        -1 if kept is None else kept,
    )  # fmt: skip
    tx.execute(
        "INSERT INTO sliding_connection (user_id, device_id, conn_id, number, state, used_ms)"
        " SELECT user_id, device_id, ?, ?, ?, ? FROM device WHERE user_id = ? AND device_id = ?",
        connection.conn_id, number, state, now_ms, connection.user_id, connection.device_id,
    )  # fmt: skip


def mark_used(tx: Transaction, connection: Connection, number: int, now_ms: int) -> None:
    """Note that a state is in use."""
    tx.execute(
        "UPDATE sliding_connection SET used_ms = ?"
        " WHERE user_id = ? AND device_id = ? AND conn_id = ? AND number = ?",
        now_ms, connection.user_id, connection.device_id, connection.conn_id, number,
    )  # fmt: skip


def delete_connections(
    tx: Transaction, user_id: str, device_id: str, conn_ids: Collection[str]
) -> None:
    """Forget some of a device's connections."""
    tx.execute(
        *in_list(
            "DELETE FROM sliding_connection WHERE user_id = ? AND device_id = ?"
            " AND conn_id IN (??)",
            user_id, device_id, conn_ids,
        )
    )  # fmt: skip


def delete_devices(tx: Transaction, user_id: str, device_ids: Collection[str]) -> None:
    """Forget all connections of these devices."""
    tx.execute(
        *in_list(
            "DELETE FROM sliding_connection WHERE user_id = ? AND device_id IN (??)",
            user_id, device_ids,
        )
    )  # fmt: skip


def delete_unused(tx: Transaction, before_ms: int) -> None:
    """Forget what nobody has used since `before_ms`."""
    tx.execute("DELETE FROM sliding_connection WHERE used_ms < ?", before_ms)
