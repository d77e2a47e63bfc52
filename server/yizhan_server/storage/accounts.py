"""Accounts, and the single-use tokens and half-done confirmations that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list
from yizhan_server.protocol.identifiers import UserID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from yizhan_database import Database, Row, Transaction


@dataclass(frozen=True, slots=True)
class Account:
    """One account as stored."""

    user_id: UserID
    password_hash: str | None
    has_initial_password: bool
    is_admin: bool
    is_locked: bool
    deactivated_ms: int | None
    created_ms: int
    signed_in_ms: int | None
    ver: int
    is_suspended: bool
    is_erased: bool
    is_guest: bool

    @property
    def is_deactivated(self) -> bool:
        """Whether the account has been given up for good."""
        return self.deactivated_ms is not None


COLUMNS = (
    "user_id, password_hash, has_initial_password, is_admin, is_locked, deactivated_ms,"
    " created_ms, signed_in_ms, ver, is_suspended, is_erased, is_guest"
)


async def find_account(db: Database, user_id: UserID) -> Account | None:
    """Return the account, deactivated ones included, or None."""
    row = await db.row(
        "SELECT user_id, password_hash, has_initial_password, is_admin, is_locked,"
        " deactivated_ms, created_ms, signed_in_ms, ver, is_suspended, is_erased, is_guest"
        " FROM account WHERE user_id = ?",
        user_id,
    )
    return None if row is None else account_from(row)


async def guests_among(db: Database, user_ids: Collection[UserID]) -> set[UserID]:
    """Return those of these users who are guests."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id FROM account WHERE user_id IN (??) AND is_guest = 1", list(user_ids)
        )
    )
    return {UserID(user_id) for (user_id,) in rows}


def mark_guest(tx: Transaction, user_id: UserID, *, is_guest: bool) -> None:
    """Make an account a guest's, or its owner a user like others. A guard: it must be in use."""
    tx.guard(
        "UPDATE account SET is_guest = ?, ver = ver + 1"
        " WHERE user_id = ? AND deactivated_ms IS NULL AND is_guest = ?",
        int(is_guest), user_id, int(not is_guest),
    )  # fmt: skip


async def scan_accounts(db: Database) -> AsyncIterator[Account]:
    """Yield every account, by user id."""
    sql = f"SELECT {COLUMNS} FROM account WHERE user_id > ? ORDER BY user_id LIMIT ?"
    async for row in db.scan(sql, after=""):
        yield account_from(row)


def account_from(row: Row) -> Account:
    """Make an account of a row selected with `COLUMNS`."""
    user_id, password_hash, initial, admin, locked, deactivated_ms, created_ms, *rest = row
    signed_in_ms, ver, suspended, erased, guest = rest
    return Account(
        UserID(user_id), password_hash, bool(initial), bool(admin), bool(locked), deactivated_ms,
        created_ms, signed_in_ms, ver, bool(suspended), bool(erased), bool(guest),
    )  # fmt: skip


def insert_account(
    tx: Transaction,
    user_id: UserID,
    *,
    password_hash: str | None,
    has_initial_password: bool,
    is_admin: bool,
    now_ms: int,
) -> None:
    """Create the account. A guard: an account of that name, even a deactivated one, undoes it."""
    tx.guard(
        "INSERT INTO account (user_id, password_hash, has_initial_password, is_admin, is_locked,"
        " deactivated_ms, created_ms, signed_in_ms, ver)"
        " VALUES (?, ?, ?, ?, 0, NULL, ?, NULL, 1) ON CONFLICT DO NOTHING",
        user_id, password_hash, int(has_initial_password), int(is_admin), now_ms,
    )  # fmt: skip


def guard_sign_in(tx: Transaction, account: Account, now_ms: int) -> None:
    """Note the sign-in, unless the account has changed since it was read.

    Without this a sign-in under the old password could commit after a change of password (or a
    lock, or a deactivation) that was meant to end it.
    """
    tx.guard(
        "UPDATE account SET signed_in_ms = ? WHERE user_id = ? AND ver = ?",
        now_ms, account.user_id, account.ver,
    )  # fmt: skip


def update_password(
    tx: Transaction, user_id: UserID, password_hash: str, *, has_initial_password: bool
) -> None:
    """Replace the password. A guard: the account must be in use."""
    tx.guard(
        "UPDATE account SET password_hash = ?, has_initial_password = ?, ver = ver + 1"
        " WHERE user_id = ? AND deactivated_ms IS NULL",
        password_hash, int(has_initial_password), user_id,
    )  # fmt: skip


def update_locked(tx: Transaction, user_id: UserID, *, is_locked: bool) -> None:
    """Lock or unlock. A guard: the account must be in use."""
    tx.guard(
        "UPDATE account SET is_locked = ?, ver = ver + 1"
        " WHERE user_id = ? AND deactivated_ms IS NULL",
        int(is_locked), user_id,
    )  # fmt: skip


def update_suspended(tx: Transaction, user_id: UserID, *, is_suspended: bool) -> None:
    """Suspend, or no longer. A guard: the account must be in use."""
    tx.guard(
        "UPDATE account SET is_suspended = ?, ver = ver + 1"
        " WHERE user_id = ? AND deactivated_ms IS NULL",
        int(is_suspended), user_id,
    )  # fmt: skip


def update_erased(tx: Transaction, user_id: UserID) -> None:
    """Hide what the account wrote from whoever has not seen it yet."""
    tx.execute("UPDATE account SET is_erased = 1 WHERE user_id = ?", user_id)


async def find_erased(db: Database, user_ids: Collection[str]) -> set[str]:
    """Return those of the users whose accounts are erased."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id FROM account WHERE user_id IN (??) AND is_erased = 1", list(user_ids)
        )
    )
    return {user_id for (user_id,) in rows}


def update_admin(tx: Transaction, user_id: UserID, *, is_admin: bool) -> None:
    """Make an administrator, or no longer. A guard: the account must be in use."""
    tx.guard(
        "UPDATE account SET is_admin = ?, ver = ver + 1"
        " WHERE user_id = ? AND deactivated_ms IS NULL",
        int(is_admin), user_id,
    )  # fmt: skip


def deactivate_account(tx: Transaction, user_id: UserID, now_ms: int) -> None:
    """Give the account up: no password, no rights. A guard: it must be in use."""
    tx.guard(
        "UPDATE account SET password_hash = NULL, is_admin = 0, deactivated_ms = ?, ver = ver + 1"
        " WHERE user_id = ? AND deactivated_ms IS NULL",
        now_ms, user_id,
    )  # fmt: skip


def reactivate_account(tx: Transaction, user_id: UserID) -> None:
    """Give an account back, without password, rights or devices. A guard: it must have ended."""
    tx.guard(
        "UPDATE account SET deactivated_ms = NULL, is_erased = 0, ver = ver + 1"
        " WHERE user_id = ? AND deactivated_ms IS NOT NULL",
        user_id,
    )


# region single-use sign-in tokens


async def find_login_token(db: Database, digest: bytes, now_ms: int) -> UserID | None:
    """Return whom a sign-in token that has not expired belongs to."""
    row = await db.row(
        "SELECT user_id FROM login_token WHERE digest = ? AND expires_ms > ?", digest, now_ms
    )
    return None if row is None else UserID(row[0])


def insert_login_token(tx: Transaction, digest: bytes, user_id: UserID, expires_ms: int) -> None:
    """Keep a sign-in token."""
    tx.execute(
        "INSERT INTO login_token (digest, user_id, expires_ms) VALUES (?, ?, ?)",
        digest, user_id, expires_ms,
    )  # fmt: skip


def guard_login_token(tx: Transaction, digest: bytes) -> None:
    """Use a sign-in token up. A guard: whoever else used it meanwhile undoes this job."""
    tx.guard("DELETE FROM login_token WHERE digest = ?", digest)


def delete_login_tokens(tx: Transaction, user_id: UserID) -> None:
    """Forget all sign-in tokens of a user."""
    tx.execute("DELETE FROM login_token WHERE user_id = ?", user_id)


# region confirmations (user-interactive authentication)


async def find_confirmation(
    db: Database, session_id: str, user_id: str, operation: str, now_ms: int
) -> tuple[str, str | None, str | None] | None:
    """Return the completed stages (JSON) of a session, and what was shown in them.

    That is a registration token and the id of a verification of an address.

    None for a session of somebody else, or of another operation, or that expired.
    """
    row = await db.row(
        "SELECT completed, registration_token, email_sid FROM confirmation"
        " WHERE session_id = ? AND user_id = ? AND operation = ? AND expires_ms > ?",
        session_id, user_id, operation, now_ms,
    )  # fmt: skip
    return None if row is None else (row[0], row[1], row[2])


def upsert_confirmation(
    tx: Transaction,
    session_id: str,
    *,
    user_id: str,
    operation: str,
    completed: str,
    registration_token: str | None,
    email_sid: str | None,
    expires_ms: int,
) -> None:
    """Keep which stages are done."""
    tx.execute(
        "INSERT INTO confirmation"
        " (session_id, user_id, operation, completed, registration_token, email_sid, expires_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET"
        " completed = excluded.completed, registration_token = excluded.registration_token,"
        " email_sid = excluded.email_sid",
        session_id, user_id, operation, completed, registration_token, email_sid, expires_ms,
    )  # fmt: skip


def delete_confirmation(tx: Transaction, session_id: str) -> None:
    """Forget a session: it is used up."""
    tx.execute("DELETE FROM confirmation WHERE session_id = ?", session_id)


def delete_expired(tx: Transaction, now_ms: int) -> None:
    """Forget sign-in tokens and confirmations whose time is over."""
    tx.execute("DELETE FROM login_token WHERE expires_ms <= ?", now_ms)
    tx.execute("DELETE FROM confirmation WHERE expires_ms <= ?", now_ms)


# region registration tokens


async def find_registration_token(db: Database, token: str, now_ms: int) -> bool:
    """Tell whether a registration token is known, unexpired and not used up."""
    row = await db.row(
        "SELECT 1 FROM registration_token WHERE token = ?"
        " AND (uses_allowed IS NULL OR used < uses_allowed)"
        " AND (expires_ms IS NULL OR expires_ms > ?)",
        token, now_ms,
    )  # fmt: skip
    return row is not None


def guard_registration_token(tx: Transaction, token: str, now_ms: int) -> None:
    """Use a registration token once. A guard: the job is undone when it is not valid any more."""
    tx.guard(
        "UPDATE registration_token SET used = used + 1 WHERE token = ?"
        " AND (uses_allowed IS NULL OR used < uses_allowed)"
        " AND (expires_ms IS NULL OR expires_ms > ?)",
        token, now_ms,
    )  # fmt: skip


def insert_registration_token(
    tx: Transaction, token: str, uses_allowed: int | None, expires_ms: int | None, now_ms: int
) -> None:
    """Keep a new registration token."""
    tx.execute(
        "INSERT INTO registration_token (token, uses_allowed, used, expires_ms, created_ms)"
        " VALUES (?, ?, 0, ?, ?)",
        token, uses_allowed, expires_ms, now_ms,
    )  # fmt: skip
