"""Files of other servers that are kept here for a while."""

from __future__ import annotations

from dataclasses import dataclass

from yizhan_database import Database, Transaction
from yizhan_server.storage.media import add_reference
from yizhan_server.storage.media_administration import ListedMedia


@dataclass(frozen=True, slots=True)
class StoredRemoteMedia:
    """A media id of another server, whose file is here."""

    digest: bytes
    content_type: str
    file_name: str | None
    read_ms: int
    is_quarantined: bool


@dataclass(frozen=True, slots=True)
class LeastRead:
    """A file that nobody has read for long."""

    server: str
    media_id: str
    size: int
    read_ms: int


async def find_remote_media(db: Database, server: str, media_id: str) -> StoredRemoteMedia | None:
    """Return what a media id of another server names, if it is here."""
    row = await db.row(
        "SELECT m.digest, m.content_type, m.file_name, m.read_ms, q.actor FROM remote_media AS m"
        " LEFT JOIN media_quarantine AS q ON q.digest = m.digest"
        " WHERE m.server = ? AND m.media_id = ?",
        server, media_id,
    )  # fmt: skip
    if row is None:
        return None
    digest, content_type, file_name, read_ms, actor = row
    return StoredRemoteMedia(digest, content_type, file_name, read_ms, actor is not None)


async def find_listed_remote_media(db: Database, server: str, media_id: str) -> ListedMedia | None:
    """Return the same as administrators see it."""
    row = await db.row(
        "SELECT m.digest, m.size, m.content_type, m.file_name, m.fetched_ms, q.actor"
        " FROM remote_media AS m LEFT JOIN media_quarantine AS q ON q.digest = m.digest"
        " WHERE m.server = ? AND m.media_id = ?",
        server, media_id,
    )  # fmt: skip
    if row is None:
        return None
    digest, size, content_type, file_name, fetched_ms, actor = row
    return ListedMedia(
        media_id, None, digest, size, content_type, file_name, fetched_ms, actor,
        is_protected=False, server=server,
    )  # fmt: skip


def guard_remote_media(
    tx: Transaction,
    server: str,
    media_id: str,
    digest: bytes,
    size: int,
    *,
    content_type: str,
    file_name: str | None,
    now_ms: int,
) -> None:
    """Record a file that was fetched. A guard: it fails when the id has its file already."""
    tx.guard(
        "INSERT INTO remote_media (server, media_id, digest, size, content_type, file_name,"
        " fetched_ms, read_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        server, media_id, digest, size, content_type, file_name, now_ms, now_ms,
    )  # fmt: skip
    add_reference(tx, digest, size)


def update_read(tx: Transaction, server: str, media_id: str, now_ms: int) -> None:
    """Note that a file is being read."""
    tx.execute(
        "UPDATE remote_media SET read_ms = ? WHERE server = ? AND media_id = ?",
        now_ms, server, media_id,
    )  # fmt: skip


def release_remote_media(tx: Transaction, server: str, media_id: str) -> None:
    """Forget a file of another server; the bytes lose a reference."""
    tx.execute(
        "UPDATE media_file SET reference_count = reference_count - 1 WHERE digest ="
        " (SELECT digest FROM remote_media WHERE server = ? AND media_id = ?)",
        server, media_id,
    )  # fmt: skip
    tx.execute("DELETE FROM remote_media WHERE server = ? AND media_id = ?", server, media_id)


async def least_read(db: Database, limit: int) -> list[LeastRead]:
    """Return the files that nobody has read for the longest time."""
    rows = await db.rows(
        "SELECT server, media_id, size, read_ms FROM remote_media ORDER BY read_ms LIMIT ?"
        " /* scan: of the index, as far as the limit */",
        limit,
    )
    return [LeastRead(*row) for row in rows]


async def total_bytes(db: Database) -> int:
    """Return how much is kept; equal files count each time."""
    row = await db.row(
        "SELECT coalesce(sum(size), 0) FROM remote_media /* scan: once in a while */"
    )
    return 0 if row is None else int(row[0])
