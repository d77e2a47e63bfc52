"""OpenID tokens, by their digests."""

from __future__ import annotations

from yizhan_database import Database, Transaction


def insert_openid_token(
    tx: Transaction, digest: bytes, user_id: str, expires_ms: int, now_ms: int
) -> None:
    """Record a token; those that have expired go."""
    tx.execute("DELETE FROM openid_token WHERE expires_ms <= ?", now_ms)
    tx.execute(
        "INSERT INTO openid_token (digest, user_id, expires_ms) VALUES (?, ?, ?)",
        digest, user_id, expires_ms,
    )  # fmt: skip


async def find_openid_token(db: Database, digest: bytes, now_ms: int) -> str | None:
    """Return whose token it is, while it is good."""
    row = await db.row(
        "SELECT user_id FROM openid_token WHERE digest = ? AND expires_ms > ?", digest, now_ms
    )
    return None if row is None else row[0]
