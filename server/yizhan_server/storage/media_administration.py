"""What administrators see of files, and the quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from yizhan_database import Database, Row, Transaction
from yizhan_server.storage.purging import BEFORE_ALL


@dataclass(frozen=True, slots=True)
class ListedMedia:
    """An id with what it names."""

    media_id: str
    owner: str | None
    """Of another server's files nobody knows it."""
    digest: bytes
    size: int
    content_type: str
    file_name: str | None
    created_ms: int
    quarantined_by: str | None
    is_protected: bool
    server: str | None = None
    """Whose file it is, if not this one's."""


_COLUMNS = (
    "m.media_id, m.owner, m.digest, f.size, m.content_type, m.file_name, m.created_ms, q.actor,"
    " m.is_protected"
)
_TABLES = (
    "media AS m JOIN media_file AS f ON f.digest = m.digest"
    " LEFT JOIN media_quarantine AS q ON q.digest = m.digest"
)


def _listed(row: Row) -> ListedMedia:
    media_id, owner, digest, size, content_type, file_name, created_ms, actor, is_protected = row
    return ListedMedia(
        media_id, owner, digest, size, content_type, file_name, created_ms, actor,
        bool(is_protected),
    )  # fmt: skip


async def find_listed_media(db: Database, media_id: str) -> ListedMedia | None:
    """Return an id to which something was uploaded."""
    row = await db.row(f"SELECT {_COLUMNS} FROM {_TABLES} WHERE m.media_id = ?", media_id)
    return None if row is None else _listed(row)


async def scan_media_of(db: Database, owner: str) -> AsyncIterator[ListedMedia]:
    """Yield what somebody uploaded, by id."""
    sql = (
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE m.owner = ? AND m.media_id > ?"
        " ORDER BY m.media_id LIMIT ?"
    )
    async for row in db.scan(sql, owner, after=""):
        yield _listed(row)


async def scan_events_with_files(db: Database, room: int) -> AsyncIterator[bytes]:
    """Yield the JSON of those events of a room's history that may name a file."""
    sql = "SELECT pos, client FROM event WHERE room = ? AND pos > ? ORDER BY pos LIMIT ?"
    async for _, client in db.scan(sql, room, after=BEFORE_ALL):
        if b"mxc://" in client:
            yield client


def insert_quarantine(tx: Transaction, digest: bytes, actor: str, now_ms: int) -> None:
    """Put bytes into quarantine; those that are there stay as they are."""
    tx.execute(
        "INSERT INTO media_quarantine (digest, actor, ts_ms) VALUES (?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        digest, actor, now_ms,
    )  # fmt: skip


def delete_quarantine(tx: Transaction, digest: bytes) -> None:
    """Let bytes be served again."""
    tx.execute("DELETE FROM media_quarantine WHERE digest = ?", digest)


def update_protected(tx: Transaction, media_id: str, *, is_protected: bool) -> None:
    """Have an id served whatever becomes of its bytes, or no longer."""
    tx.execute("UPDATE media SET is_protected = ? WHERE media_id = ?", int(is_protected), media_id)
