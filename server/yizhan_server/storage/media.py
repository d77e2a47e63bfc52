"""Media ids, and the files that they name."""

from __future__ import annotations

from dataclasses import dataclass

from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """A media id of this server."""

    owner: str
    digest: bytes | None
    """Of the file's bytes; None while nothing has been uploaded."""
    content_type: str
    file_name: str | None
    expires_ms: int | None
    """Until when something may be uploaded; None once that has happened."""
    quarantined_by: str | None
    """Who put the bytes into quarantine."""
    is_protected: bool
    """Whether it is served all the same."""

    @property
    def is_served(self) -> bool:
        """Whether people may have it."""
        return self.quarantined_by is None or self.is_protected


async def find_media(db: Database, media_id: str) -> StoredMedia | None:
    """Return what a media id names."""
    row = await db.row(
        "SELECT m.owner, m.digest, m.content_type, m.file_name, m.expires_ms, q.actor,"
        " m.is_protected FROM media AS m LEFT JOIN media_quarantine AS q ON q.digest = m.digest"
        " WHERE m.media_id = ?",
        media_id,
    )
    if row is None:
        return None
    owner, digest, content_type, file_name, expires_ms, actor, is_protected = row
    return StoredMedia(
        owner, digest, content_type, file_name, expires_ms, actor, bool(is_protected)
    )


async def find_first_expiry(db: Database, owner: str, now_ms: int) -> int | None:
    """Return when the first of a user's open reservations ends."""
    row = await db.row(
        "SELECT min(expires_ms) FROM media WHERE owner = ? AND expires_ms > ?", owner, now_ms
    )
    expires_ms: int | None = None if row is None else row[0]
    return expires_ms


def append_media(
    tx: Transaction,
    media_id: str,
    owner: str,
    digest: bytes,
    size: int,
    *,
    content_type: str,
    file_name: str | None,
    now_ms: int,
) -> None:
    """Give a file that is in place its id."""
    tx.execute(
        "INSERT INTO media (media_id, owner, digest, content_type, file_name, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        media_id, owner, digest, content_type, file_name, now_ms,
    )  # fmt: skip
    add_reference(tx, digest, size)


def guard_reservation(
    tx: Transaction, media_id: str, owner: str, *, now_ms: int, expires_ms: int, most: int
) -> None:
    """Hand out an id. A guard: it fails when the owner has `most` open ones already."""
    tx.guard(
        "INSERT INTO media (media_id, owner, content_type, created_ms, expires_ms)"
        " SELECT ?, ?, '', ?, ?"
        " WHERE (SELECT count(*) FROM media WHERE owner = ? AND expires_ms > ?) < ?",
        media_id, owner, now_ms, expires_ms, owner, now_ms, most,
    )  # fmt: skip


def delete_expired_reservations(tx: Transaction, owner: str, now_ms: int) -> None:
    """Forget the ids of a user to which nothing was uploaded in time."""
    tx.execute("DELETE FROM media WHERE owner = ? AND expires_ms <= ?", owner, now_ms)


def guard_filled(
    tx: Transaction,
    media_id: str,
    digest: bytes,
    size: int,
    *,
    content_type: str,
    file_name: str | None,
    now_ms: int,
) -> None:
    """Give a reserved id its file. A guard: it fails when the id has one, or has expired."""
    tx.guard(
        "UPDATE media SET digest = ?, content_type = ?, file_name = ?, expires_ms = NULL"
        " WHERE media_id = ? AND expires_ms > ?",
        digest, content_type, file_name, media_id, now_ms,
    )  # fmt: skip
    add_reference(tx, digest, size)


def release_media(tx: Transaction, media_id: str) -> None:
    """Forget a media id. Its file loses a reference; that of none may be removed."""
    tx.execute(
        "UPDATE media_file SET reference_count = reference_count - 1"
        " WHERE digest = (SELECT digest FROM media WHERE media_id = ?)",
        media_id,
    )
    tx.execute("DELETE FROM media WHERE media_id = ?", media_id)


async def unnamed_files(db: Database, limit: int) -> list[bytes]:
    """Return the digests of some files that nothing names any more."""
    rows = await db.rows(
        "SELECT digest FROM media_file WHERE reference_count = 0 LIMIT ?"
        " /* scan: of the index of just these */",
        limit,
    )
    return [digest for (digest,) in rows]


def guard_unnamed(tx: Transaction, digest: bytes) -> None:
    """Forget a file. A guard: it fails when something names it again."""
    tx.guard("DELETE FROM media_file WHERE digest = ? AND reference_count = 0", digest)


def add_reference(tx: Transaction, digest: bytes, size: int) -> None:
    """Count one more id that names a file."""
    tx.execute(
        "INSERT INTO media_file (digest, size, reference_count) VALUES (?, ?, 1)"
        " ON CONFLICT (digest) DO UPDATE SET reference_count = media_file.reference_count + 1",
        digest, size,
    )  # fmt: skip
