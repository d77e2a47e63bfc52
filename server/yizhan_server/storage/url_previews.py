"""Cached previews of URLs."""

from __future__ import annotations

from dataclasses import dataclass

from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class CachedPreview:
    """What is known of a URL until some time."""

    url: bytes
    """SHA-256 of it."""
    answer: bytes
    """JSON."""
    media_id: str | None
    expires_ms: int


async def find_preview(db: Database, url: bytes) -> CachedPreview | None:
    """Return a cached preview, expired or not."""
    row = await db.row(
        "SELECT url, answer, media_id, expires_ms FROM url_preview WHERE url = ?", url
    )
    return None if row is None else CachedPreview(*row)


async def expired_previews(db: Database, now_ms: int, limit: int) -> list[CachedPreview]:
    """Return the first previews that have expired."""
    rows = await db.rows(
        "SELECT url, answer, media_id, expires_ms FROM url_preview WHERE expires_ms <= ?"
        " ORDER BY expires_ms LIMIT ?",
        now_ms, limit,
    )  # fmt: skip
    return [CachedPreview(*row) for row in rows]


def replace_preview(tx: Transaction, preview: CachedPreview) -> None:
    """Keep a preview."""
    delete_preview(tx, preview.url)
    tx.execute(
        "INSERT INTO url_preview (url, answer, media_id, expires_ms) VALUES (?, ?, ?, ?)",
        preview.url, preview.answer, preview.media_id, preview.expires_ms,
    )  # fmt: skip


def delete_preview(tx: Transaction, url: bytes) -> None:
    """Forget a preview."""
    tx.execute("DELETE FROM url_preview WHERE url = ?", url)
