"""Browsers signed in to the account pages, people that others vouch for, allowed resets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import UserID

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class StoredBrowserSession:
    """One signed-in browser."""

    user_id: UserID
    proved_ms: int


async def find_browser_session(
    db: Database, digest: bytes, now_ms: int
) -> StoredBrowserSession | None:
    """Return the session, unless it expired or the account has changed since."""
    row = await db.row(
        "SELECT b.user_id, b.proved_ms FROM browser_session AS b"
        " JOIN account AS a ON a.user_id = b.user_id AND a.ver = b.account_ver"
        " WHERE b.digest = ? AND b.expires_ms > ?",
        digest, now_ms,
    )  # fmt: skip
    return None if row is None else StoredBrowserSession(UserID(row[0]), row[1])


def insert_browser_session(
    tx: Transaction,
    digest: bytes,
    user_id: UserID,
    account_ver: int,
    *,
    proved_ms: int,
    expires_ms: int,
) -> None:
    """Keep a new session."""
    tx.execute(
        "INSERT INTO browser_session (digest, user_id, account_ver, proved_ms, expires_ms)"
        " VALUES (?, ?, ?, ?, ?)",
        digest, user_id, account_ver, proved_ms, expires_ms,
    )  # fmt: skip


def delete_browser_session(tx: Transaction, digest: bytes) -> None:
    """End one session."""
    tx.execute("DELETE FROM browser_session WHERE digest = ?", digest)


def delete_browser_sessions(tx: Transaction, user_id: UserID) -> None:
    """End all of a user's sessions in browsers."""
    tx.execute("DELETE FROM browser_session WHERE user_id = ?", user_id)


def delete_expired(tx: Transaction, now_ms: int) -> None:
    """Forget sessions and permissions whose time is over."""
    tx.execute("DELETE FROM browser_session WHERE expires_ms <= ?", now_ms)
    tx.execute(
        # Only who lost every device has one, for minutes.
        "DELETE FROM identity_reset WHERE expires_ms <= ? /* scan: few rows */",
        now_ms,
    )


# region people that an OpenID Connect provider knows


async def find_linked_user(db: Database, issuer: str, subject: str) -> UserID | None:
    """Return who a provider's subject is here."""
    row = await db.row(
        "SELECT user_id FROM external_identity WHERE issuer = ? AND subject = ?", issuer, subject
    )
    return None if row is None else UserID(row[0])


async def is_linked(db: Database, user_id: UserID) -> bool:
    """Whether a provider vouches for an account."""
    row = await db.row("SELECT 1 FROM external_identity WHERE user_id = ? LIMIT 1", user_id)
    return row is not None


def guard_link(tx: Transaction, issuer: str, subject: str, user_id: UserID, now_ms: int) -> None:
    """Link a subject to an account. A guard: it must not be linked yet."""
    tx.guard(
        "INSERT INTO external_identity (issuer, subject, user_id, linked_ms)"
        " VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        issuer, subject, user_id, now_ms,
    )  # fmt: skip


def insert_link(tx: Transaction, issuer: str, subject: str, user_id: UserID, now_ms: int) -> None:
    """Link a subject to an account that begins in this commit, whose name guards both."""
    tx.execute(
        "INSERT INTO external_identity (issuer, subject, user_id, linked_ms) VALUES (?, ?, ?, ?)",
        issuer, subject, user_id, now_ms,
    )  # fmt: skip


# region permission to replace cross-signing keys


def upsert_identity_reset(tx: Transaction, user_id: UserID, expires_ms: int) -> None:
    """Let somebody replace their cross-signing keys once."""
    tx.execute(
        "INSERT INTO identity_reset (user_id, expires_ms) VALUES (?, ?)"
        " ON CONFLICT (user_id) DO UPDATE SET expires_ms = excluded.expires_ms",
        user_id, expires_ms,
    )  # fmt: skip


def guard_identity_reset(tx: Transaction, user_id: UserID, now_ms: int) -> None:
    """Use the permission up. A guard: it must be there, and not have expired."""
    tx.guard("DELETE FROM identity_reset WHERE user_id = ? AND expires_ms > ?", user_id, now_ms)


def delete_identity_reset(tx: Transaction, user_id: UserID) -> None:
    """Take the permission back."""
    tx.execute("DELETE FROM identity_reset WHERE user_id = ?", user_id)
