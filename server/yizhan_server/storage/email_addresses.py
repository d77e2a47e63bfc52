"""E-mail addresses of accounts, and verifications of addresses that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import UserID

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """An address of an account."""

    address: str
    user_id: UserID
    validated_ms: int
    added_ms: int


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification that was asked for; `validated_ms` once the owner has agreed."""

    sid: str
    address: str
    purpose: str
    secret_digest: bytes
    token_digest: bytes | None
    attempt: int
    next_link: str | None
    validated_ms: int | None


async def find_address(db: Database, address: str) -> EmailAddress | None:
    """Return whose an address is."""
    row = await db.row(
        "SELECT address, user_id, validated_ms, added_ms FROM email_address WHERE address = ?",
        address,
    )
    return None if row is None else EmailAddress(row[0], UserID(row[1]), row[2], row[3])


async def find_addresses(db: Database, user_id: UserID) -> list[EmailAddress]:
    """Return the addresses of an account, in the order in which they were added."""
    rows = await db.rows(
        "SELECT address, validated_ms, added_ms FROM email_address WHERE user_id = ?"
        " ORDER BY added_ms, address",
        user_id,
    )
    return [EmailAddress(row[0], user_id, row[1], row[2]) for row in rows]


def guard_new_address(
    tx: Transaction, user_id: UserID, address: str, validated_ms: int, now_ms: int
) -> None:
    """Give an account an address. A guard: it must be nobody's yet."""
    tx.guard(
        "INSERT INTO email_address (address, user_id, validated_ms, added_ms)"
        " VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        address, user_id, validated_ms, now_ms,
    )  # fmt: skip


def delete_address(tx: Transaction, user_id: UserID, address: str) -> None:
    """Take an address from an account."""
    tx.execute("DELETE FROM email_address WHERE user_id = ? AND address = ?", user_id, address)


def delete_addresses(tx: Transaction, user_id: UserID) -> None:
    """Take every address from an account."""
    tx.execute("DELETE FROM email_address WHERE user_id = ?", user_id)


# region verifications

_COLUMNS = "sid, address, purpose, secret_digest, token_digest, attempt, next_link, validated_ms"


async def find_verification(db: Database, sid: str, now_ms: int) -> Verification | None:
    """Return a verification that has not expired."""
    row = await db.row(
        f"SELECT {_COLUMNS} FROM email_verification WHERE sid = ? AND expires_ms > ?", sid, now_ms
    )
    return None if row is None else Verification(*row)


async def find_begun(
    db: Database, address: str, purpose: str, secret_digest: bytes, now_ms: int
) -> Verification | None:
    """Return the verification that a client asked for before with the same secret."""
    row = await db.row(
        f"SELECT {_COLUMNS} FROM email_verification"
        " WHERE address = ? AND purpose = ? AND secret_digest = ? AND expires_ms > ?",
        address, purpose, secret_digest, now_ms,
    )  # fmt: skip
    return None if row is None else Verification(*row)


def insert_verification(tx: Transaction, new: Verification, expires_ms: int, now_ms: int) -> None:
    """Keep a new verification, in place of one of the same kind that has expired.

    A guard: it fails when the client asked twice at once.
    """
    tx.execute(
        "DELETE FROM email_verification"
        " WHERE address = ? AND purpose = ? AND secret_digest = ? AND expires_ms <= ?",
        new.address, new.purpose, new.secret_digest, now_ms,
    )  # fmt: skip
    tx.guard(
        f"INSERT INTO email_verification ({_COLUMNS}, expires_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        new.sid, new.address, new.purpose, new.secret_digest, new.token_digest, new.attempt,
        new.next_link, new.validated_ms, expires_ms,
    )  # fmt: skip


def replace_token(
    tx: Transaction,
    sid: str,
    token_digest: bytes | None,
    next_link: str | None,
    attempt: int,
    expires_ms: int,
) -> None:
    """Have the token of a newer mail verify, and the one before no longer."""
    tx.execute(
        "UPDATE email_verification SET token_digest = ?, next_link = ?, attempt = ?,"
        " expires_ms = ? WHERE sid = ? AND attempt < ?",
        token_digest, next_link, attempt, expires_ms, sid, attempt,
    )  # fmt: skip


def guard_validated(tx: Transaction, sid: str, token_digest: bytes, now_ms: int) -> None:
    """Note that the owner agreed, and use the token up. A guard: it must be good still."""
    tx.guard(
        "UPDATE email_verification SET validated_ms = ?, token_digest = NULL"
        " WHERE sid = ? AND token_digest = ? AND expires_ms > ?",
        now_ms, sid, token_digest, now_ms,
    )  # fmt: skip


def guard_used(tx: Transaction, sid: str) -> None:
    """Use a verification up. A guard: whoever else used it meanwhile undoes this job."""
    tx.guard("DELETE FROM email_verification WHERE sid = ? AND validated_ms IS NOT NULL", sid)


def delete_verifications_of(tx: Transaction, address: str) -> None:
    """Forget what was asked for about an address: it has another owner, or none."""
    tx.execute("DELETE FROM email_verification WHERE address = ?", address)


def delete_expired(tx: Transaction, now_ms: int) -> None:
    """Forget verifications whose time is over."""
    tx.execute("DELETE FROM email_verification WHERE expires_ms <= ?", now_ms)
