"""What is kept of the device lists of other servers' users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class RemoteList:
    """How far a list is."""

    stream_id: int
    complete: bool


@dataclass(frozen=True, slots=True)
class RemoteDevice:
    """A device that has keys."""

    keys: bytes
    display_name: str | None


async def find_list(db: Database, user_id: str) -> RemoteList | None:
    """Return how far a user's list is."""
    row = await db.row(
        "SELECT stream_id, complete FROM remote_device_list WHERE user_id = ?", user_id
    )
    return None if row is None else RemoteList(row[0], bool(row[1]))


async def users_sharing(db: Database, own: str, user_ids: Collection[str]) -> set[str]:
    """Return which of these users are in a room with somebody of the server `own`."""
    rows = await db.rows(
        *in_list(
            "SELECT DISTINCT m.user_id FROM membership AS m JOIN room_server AS s"
            " ON s.room = m.room AND s.server = ? AND s.to_pos = 0"
            " WHERE m.user_id IN (??) AND m.membership = 'join'",
            own, user_ids,
        )
    )  # fmt: skip
    return {user_id for (user_id,) in rows}


async def users_kept(db: Database, own: str, user_ids: Collection[str]) -> set[str]:
    """Return which of these users' lists are complete.

    That takes a room that the user and `own` have shared without a break since before the list was
    asked for: else changes may not have been told.
    """
    rows = await db.rows(
        *in_list(
            "SELECT l.user_id FROM remote_device_list AS l WHERE l.complete = 1"
            " AND EXISTS (SELECT 1 FROM membership AS m JOIN room_server AS s ON s.room = m.room"
            " AND s.server = ? AND s.to_pos = 0 AND s.from_pos <= l.pos"
            " WHERE m.user_id = l.user_id AND m.membership = 'join' AND m.pos <= l.pos)"
            " AND l.user_id IN (??)",
            own, user_ids,
        )
    )  # fmt: skip
    return {user_id for (user_id,) in rows}


async def devices_of_users(
    db: Database, user_ids: Collection[str]
) -> list[tuple[str, str, RemoteDevice]]:
    """Return (user, device id, device) of the users' devices, as far as they are kept."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, device_id, keys, display_name FROM remote_device"
            " WHERE user_id IN (??)",
            user_ids,
        )
    )
    return [
        (user_id, device_id, RemoteDevice(keys, display_name))
        for user_id, device_id, keys, display_name in rows
    ]


def replace_list(
    tx: Transaction,
    user_id: str,
    known: RemoteList | None,
    stream_id: int,
    pos: int,
    devices: Mapping[str, RemoteDevice],
) -> None:
    """Keep a list that was asked for, if nothing came meanwhile. A guard."""
    if known is None:
        tx.guard(
            "INSERT INTO remote_device_list (user_id, stream_id, pos, complete)"
            " VALUES (?, ?, ?, 1) ON CONFLICT DO NOTHING",
            user_id, stream_id, pos,
        )  # fmt: skip
    else:
        tx.guard(
            "UPDATE remote_device_list SET stream_id = ?, pos = ?, complete = 1"
            " WHERE user_id = ? AND stream_id = ? AND complete = ?",
            stream_id, pos, user_id, known.stream_id, int(known.complete),
        )  # fmt: skip
    tx.execute("DELETE FROM remote_device WHERE user_id = ?", user_id)
    for device_id, device in devices.items():
        replace_device(tx, user_id, device_id, device)


def advance_list(tx: Transaction, user_id: str, known: RemoteList, stream_id: int) -> None:
    """Count in the next change of a complete list. A guard."""
    tx.guard(
        "UPDATE remote_device_list SET stream_id = ?"
        " WHERE user_id = ? AND stream_id = ? AND complete = 1",
        stream_id, user_id, known.stream_id,
    )  # fmt: skip


def break_list(tx: Transaction, user_id: str, known: RemoteList | None, stream_id: int) -> None:
    """Note that a change is missing; lists that are being asked for do not have it. A guard."""
    if known is None:
        tx.guard(
            "INSERT INTO remote_device_list (user_id, stream_id, pos, complete)"
            " VALUES (?, ?, 0, 0) ON CONFLICT DO NOTHING",
            user_id, stream_id,
        )  # fmt: skip
    else:
        tx.guard(
            "UPDATE remote_device_list SET stream_id = ?, complete = 0"
            " WHERE user_id = ? AND stream_id = ? AND complete = ?",
            max(known.stream_id, stream_id), user_id, known.stream_id, int(known.complete),
        )  # fmt: skip


def replace_device(
    tx: Transaction, user_id: str, device_id: str, device: RemoteDevice | None
) -> None:
    """Keep the keys of a device; None where it has none, or is no more."""
    if device is None:
        tx.execute(
            "DELETE FROM remote_device WHERE user_id = ? AND device_id = ?", user_id, device_id
        )
    else:
        tx.execute(
            "INSERT INTO remote_device (user_id, device_id, keys, display_name)"
            " VALUES (?, ?, ?, ?) ON CONFLICT (user_id, device_id)"
            " DO UPDATE SET keys = excluded.keys, display_name = excluded.display_name",
            user_id, device_id, device.keys, device.display_name,
        )  # fmt: skip
