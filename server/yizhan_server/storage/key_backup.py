"""Server-side backups of room keys, encrypted by the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Backup:
    """One version of a user's backup."""

    version: int
    algorithm: str
    auth_data: bytes
    count: int
    etag: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class BackupKey:
    """One session's key in a backup."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: bytes

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Of two keys of a session, the one with the smaller rank is kept."""
        return not self.is_verified, self.first_message_index, self.forwarded_count


async def find_backup(db: Database, user_id: str, version: int) -> Backup | None:
    """Return a version, deleted ones included."""
    row = await db.row(
        "SELECT version, algorithm, auth_data, count, etag, deleted FROM key_backup"
        " WHERE user_id = ? AND version = ?",
        user_id, version,
    )  # fmt: skip
    return None if row is None else _backup(row)


async def find_current_backup(db: Database, user_id: str) -> Backup | None:
    """Return the newest version that was not deleted."""
    row = await db.row(
        "SELECT version, algorithm, auth_data, count, etag, deleted FROM key_backup"
        " WHERE user_id = ? AND deleted = 0 ORDER BY version DESC LIMIT 1",
        user_id,
    )
    return None if row is None else _backup(row)


async def find_last_version(db: Database, user_id: str) -> int:
    """Return the newest version there ever was; 0 for none."""
    row = await db.row("SELECT max(version) FROM key_backup WHERE user_id = ?", user_id)
    return 0 if row is None or row[0] is None else int(row[0])


def create_backup(
    tx: Transaction, user_id: str, version: int, algorithm: str, auth_data: bytes
) -> None:
    """Create an empty version. A guard: there is none of that number yet."""
    tx.guard(
        "INSERT INTO key_backup (user_id, version, algorithm, auth_data, count, etag, deleted)"
        " VALUES (?, ?, ?, ?, 0, 0, 0) ON CONFLICT DO NOTHING",
        user_id, version, algorithm, auth_data,
    )  # fmt: skip


def update_auth_data(tx: Transaction, user_id: str, version: int, auth_data: bytes) -> None:
    """Replace a version's auth_data. A guard: it must exist."""
    tx.guard(
        "UPDATE key_backup SET auth_data = ? WHERE user_id = ? AND version = ? AND deleted = 0",
        auth_data, user_id, version,
    )  # fmt: skip


def mark_deleted(tx: Transaction, user_id: str, version: int) -> None:
    """Delete a version and its keys; its number stays taken."""
    tx.execute(
        "UPDATE key_backup SET deleted = 1, auth_data = ?, count = 0"
        " WHERE user_id = ? AND version = ?",
        b"{}", user_id, version,
    )  # fmt: skip
    tx.execute("DELETE FROM backup_key WHERE user_id = ? AND version = ?", user_id, version)


def delete_backups(tx: Transaction, user_id: str) -> None:
    """Delete all of a user's backups."""
    tx.execute("DELETE FROM key_backup WHERE user_id = ?", user_id)
    tx.execute("DELETE FROM backup_key WHERE user_id = ?", user_id)


def advance_backup(tx: Transaction, user_id: str, backup: Backup, *, count: int) -> None:
    """Give a version its next etag and this count of keys, if it is still as `backup` says.

    A guard.
    """
    tx.guard(
        "UPDATE key_backup SET etag = etag + 1, count = ?"
        " WHERE user_id = ? AND version = ? AND etag = ? AND deleted = 0",
        count, user_id, backup.version, backup.etag,
    )  # fmt: skip


def check_current(tx: Transaction, user_id: str, version: int) -> None:
    """Let the job fail if there is a newer version. A guard."""
    tx.guard(
        "UPDATE key_backup SET deleted = 0 WHERE user_id = ? AND version = ? AND deleted = 0"
        " AND NOT EXISTS (SELECT 1 FROM key_backup AS newer"
        " WHERE newer.user_id = ? AND newer.version > ? AND newer.deleted = 0)",
        user_id, version, user_id, version,
    )  # fmt: skip


def upsert_keys(tx: Transaction, user_id: str, version: int, keys: Iterable[BackupKey]) -> None:
    """Store keys, in place of others of the same sessions."""
    tx.execute_many(
        "INSERT INTO backup_key (user_id, version, room_id, session_id, first_message_index,"
        " forwarded_count, is_verified, session_data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET"
        " first_message_index = excluded.first_message_index,"
        " forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified,"
        " session_data = excluded.session_data",
        [
            (
                user_id, version, key.room_id, key.session_id, key.first_message_index,
                key.forwarded_count, int(key.is_verified), key.session_data,
            )
            for key in keys
        ],
    )  # fmt: skip


async def find_keys_of_sessions(
    db: Database, user_id: str, version: int, room_id: str, session_ids: Collection[str]
) -> list[BackupKey]:
    """Return the keys of these sessions of one room."""
    rows = await db.rows(
        *in_list(
            f"SELECT {_COLUMNS} FROM backup_key"
            " WHERE user_id = ? AND version = ? AND room_id = ? AND session_id IN (??)",
            user_id, version, room_id, session_ids,
        )
    )  # fmt: skip
    return [_key(row) for row in rows]


async def find_page_of_keys(
    db: Database, user_id: str, version: int, after: tuple[str, str], limit: int
) -> list[BackupKey]:
    """Return the first `limit` keys after (room, session), in that order."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM backup_key WHERE user_id = ? AND version = ?"
        " AND (room_id, session_id) > (?, ?) ORDER BY room_id, session_id LIMIT ?",
        user_id, version, *after, limit,
    )  # fmt: skip
    return [_key(row) for row in rows]


async def find_page_of_room_keys(
    db: Database, user_id: str, version: int, room_id: str, after: str, limit: int
) -> list[BackupKey]:
    """Return the first `limit` keys of a room after the session `after`, in order."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM backup_key WHERE user_id = ? AND version = ? AND room_id = ?"
        " AND session_id > ? ORDER BY session_id LIMIT ?",
        user_id, version, room_id, after, limit,
    )  # fmt: skip
    return [_key(row) for row in rows]


def delete_keys(
    tx: Transaction, user_id: str, version: int, room_id: str | None, session_id: str | None
) -> None:
    """Delete a session's key, a room's keys, or all keys of a version."""
    sql = "DELETE FROM backup_key WHERE user_id = ? AND version = ?"
    if room_id is None:
        tx.execute(sql, user_id, version)
    elif session_id is None:
        tx.execute(sql + " AND room_id = ?", user_id, version, room_id)
    else:
        tx.execute(
            sql + " AND room_id = ? AND session_id = ?", user_id, version, room_id, session_id
        )


async def count_keys(
    db: Database, user_id: str, version: int, room_id: str, session_id: str | None
) -> int:
    """Return how many keys a version has of a room, or of one session."""
    sql = "SELECT count(*) FROM backup_key WHERE user_id = ? AND version = ? AND room_id = ?"
    if session_id is None:
        row = await db.row(sql, user_id, version, room_id)
    else:
        row = await db.row(sql + " AND session_id = ?", user_id, version, room_id, session_id)
    return 0 if row is None else int(row[0])


_COLUMNS = "room_id, session_id, first_message_index, forwarded_count, is_verified, session_data"


def _backup(row: tuple[int, str, bytes, int, int, int]) -> Backup:
    return Backup(row[0], row[1], row[2], row[3], row[4], bool(row[5]))


def _key(row: tuple[str, str, int, int, int, bytes]) -> BackupKey:
    return BackupKey(row[0], row[1], row[2], row[3], bool(row[4]), row[5])
