"""Registration tokens, as administrators see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A registration token; None: without limit."""

    token: str
    uses_allowed: int | None
    used: int
    expires_ms: int | None

    def is_valid(self, now_ms: int) -> bool:
        """Whether it could be used now."""
        is_left = self.uses_allowed is None or self.used < self.uses_allowed
        return is_left and (self.expires_ms is None or self.expires_ms > now_ms)


_COLUMNS = "token, uses_allowed, used, expires_ms"


async def find_token(db: Database, token: str) -> StoredToken | None:
    """Return a token, whether or not it can be used."""
    row = await db.row(f"SELECT {_COLUMNS} FROM registration_token WHERE token = ?", token)
    return None if row is None else StoredToken(*row)


async def scan_tokens(db: Database) -> AsyncIterator[StoredToken]:
    """Yield every token."""
    sql = f"SELECT {_COLUMNS} FROM registration_token WHERE token > ? ORDER BY token LIMIT ?"
    async for row in db.scan(sql, after=""):
        yield StoredToken(*row)


def guard_new_token(tx: Transaction, token: StoredToken, now_ms: int) -> None:
    """Keep a new token. A guard: it fails when there is one of that name."""
    tx.guard(
        "INSERT INTO registration_token (token, uses_allowed, used, expires_ms, created_ms)"
        " VALUES (?, ?, 0, ?, ?) ON CONFLICT DO NOTHING",
        token.token, token.uses_allowed, token.expires_ms, now_ms,
    )  # fmt: skip


def guard_changed_token(tx: Transaction, token: StoredToken) -> None:
    """Change the limits of a token. A guard: it must be there."""
    tx.guard(
        "UPDATE registration_token SET uses_allowed = ?, expires_ms = ? WHERE token = ?",
        token.uses_allowed, token.expires_ms, token.token,
    )  # fmt: skip


def guard_token_deleted(tx: Transaction, token: str) -> None:
    """Remove a token. A guard: it must be there."""
    tx.guard("DELETE FROM registration_token WHERE token = ?", token)
