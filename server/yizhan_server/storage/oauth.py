"""OAuth clients, authorization codes, device codes, and the sessions that these bought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import DeviceID, UserID

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """A code as stored; the code itself is kept as a digest only."""

    digest: bytes
    client_id: str
    redirect_uri: str
    challenge: str
    scope: str
    device_id: DeviceID
    user_id: UserID
    account_ver: int
    is_used: bool
    expires_ms: int


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A device code as stored."""

    digest: bytes
    user_code: str
    client_id: str
    scope: str
    device_id: DeviceID
    state: str
    user_id: UserID | None
    account_ver: int | None
    expires_ms: int


@dataclass(frozen=True, slots=True)
class OAuthSession:
    """Which client a device belongs to."""

    user_id: UserID
    device_id: DeviceID
    client_id: str
    scope: str
    bought_by: bytes


# region clients


async def find_client(db: Database, client_id: str) -> bytes | None:
    """Return a client's metadata (JSON)."""
    row = await db.row("SELECT metadata FROM oauth_client WHERE client_id = ?", client_id)
    return None if row is None else row[0]


def upsert_client(tx: Transaction, client_id: str, metadata: bytes, now_ms: int) -> None:
    """Keep a client; one that is known already counts as registered just now."""
    tx.execute(
        "INSERT INTO oauth_client (client_id, metadata, registered_ms) VALUES (?, ?, ?)"
        " ON CONFLICT (client_id) DO UPDATE SET registered_ms = excluded.registered_ms",
        client_id, metadata, now_ms,
    )  # fmt: skip


# region authorization codes


def insert_code(tx: Transaction, code: AuthorizationCode, forget_ms: int) -> None:
    """Keep a new code."""
    tx.execute(
        "INSERT INTO oauth_code (digest, client_id, redirect_uri, challenge, scope, device_id,"
        " user_id, account_ver, is_used, expires_ms, forget_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
        code.digest, code.client_id, code.redirect_uri, code.challenge, code.scope, code.device_id,
        code.user_id, code.account_ver, code.expires_ms, forget_ms,
    )  # fmt: skip


async def find_code(db: Database, digest: bytes) -> AuthorizationCode | None:
    """Return a code, used and expired ones included."""
    row = await db.row(
        "SELECT client_id, redirect_uri, challenge, scope, device_id, user_id, account_ver,"
        " is_used, expires_ms FROM oauth_code WHERE digest = ?",
        digest,
    )
    if row is None:
        return None
    client_id, redirect_uri, challenge, scope, device_id, user_id, ver, used, expires_ms = row
    return AuthorizationCode(
        digest, client_id, redirect_uri, challenge, scope, DeviceID(device_id), UserID(user_id),
        ver, bool(used), expires_ms,
    )  # fmt: skip


def guard_code(tx: Transaction, digest: bytes) -> None:
    """Use a code up. A guard: of two who present it at once only one gets a session."""
    tx.guard("UPDATE oauth_code SET is_used = 1 WHERE digest = ? AND is_used = 0", digest)


# region device codes


def guard_new_device_code(tx: Transaction, code: DeviceCode, forget_ms: int) -> None:
    """Keep a new device code. A guard: its user code must be free."""
    tx.guard(
        "INSERT INTO oauth_device_code (digest, user_code, client_id, scope, device_id, state,"
        " user_id, account_ver, expires_ms, forget_ms)"
        " VALUES (?, ?, ?, ?, ?, 'pending', NULL, NULL, ?, ?) ON CONFLICT DO NOTHING",
        code.digest, code.user_code, code.client_id, code.scope, code.device_id, code.expires_ms,
        forget_ms,
    )  # fmt: skip


_DEVICE_CODE = (
    "SELECT digest, user_code, client_id, scope, device_id, state, user_id, account_ver, expires_ms"
    " FROM oauth_device_code"
)


async def find_device_code(db: Database, digest: bytes) -> DeviceCode | None:
    """Return a device code, used and expired ones included."""
    row = await db.row(f"{_DEVICE_CODE} WHERE digest = ?", digest)
    return None if row is None else DeviceCode(*row)


async def find_user_code(db: Database, user_code: str) -> DeviceCode | None:
    """Return the device code that belongs to a user code, used and expired ones included."""
    row = await db.row(f"{_DEVICE_CODE} WHERE user_code = ?", user_code)
    return None if row is None else DeviceCode(*row)


def guard_decision(
    tx: Transaction, digest: bytes, state: str, user_id: UserID, account_ver: int
) -> None:
    """Approve or deny. A guard: nobody may have decided before."""
    tx.guard(
        "UPDATE oauth_device_code SET state = ?, user_id = ?, account_ver = ?"
        " WHERE digest = ? AND state = 'pending'",
        state, user_id, account_ver, digest,
    )  # fmt: skip


def guard_device_code(tx: Transaction, digest: bytes) -> None:
    """Use an approved device code up. A guard: only once."""
    tx.guard(
        "UPDATE oauth_device_code SET state = 'used' WHERE digest = ? AND state = 'approved'",
        digest,
    )


# region sessions


def upsert_session(tx: Transaction, session: OAuthSession) -> None:
    """Note which client a device belongs to from now on."""
    tx.execute(
        "INSERT INTO oauth_session (user_id, device_id, client_id, scope, bought_by)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id, device_id) DO UPDATE SET"
        " client_id = excluded.client_id, scope = excluded.scope, bought_by = excluded.bought_by",
        session.user_id, session.device_id, session.client_id, session.scope, session.bought_by,
    )  # fmt: skip


async def find_session(db: Database, user_id: str, device_id: str) -> OAuthSession | None:
    """Return the OAuth session of a device, None if it signed in otherwise."""
    row = await db.row(
        "SELECT user_id, device_id, client_id, scope, bought_by FROM oauth_session"
        " WHERE user_id = ? AND device_id = ?",
        user_id, device_id,
    )  # fmt: skip
    return None if row is None else OAuthSession(*row)


async def find_clients_of(db: Database, user_id: str) -> dict[str, tuple[str, bytes]]:
    """Return (client id, metadata) by device id, of a user's OAuth sessions."""
    rows = await db.rows(
        "SELECT s.device_id, c.client_id, c.metadata FROM oauth_session AS s"
        " JOIN oauth_client AS c ON c.client_id = s.client_id WHERE s.user_id = ?",
        user_id,
    )
    return {device_id: (client_id, metadata) for device_id, client_id, metadata in rows}


async def find_spent_refresh_token(db: Database, digest: bytes) -> tuple[UserID, DeviceID] | None:
    """Return whose refresh token this was before it was replaced."""
    row = await db.row(
        "SELECT user_id, device_id FROM spent_refresh_token WHERE digest = ?", digest
    )
    return None if row is None else (UserID(row[0]), DeviceID(row[1]))


async def find_owner(db: Database, digest: bytes) -> tuple[UserID, DeviceID] | None:
    """Return the device that an access or refresh token speaks for, however old it is."""
    row = await db.row(
        "SELECT user_id, device_id FROM access_token WHERE digest = ?"
        " UNION ALL SELECT user_id, device_id FROM refresh_token WHERE digest = ?",
        digest, digest,
    )  # fmt: skip
    return None if row is None else (UserID(row[0]), DeviceID(row[1]))


# region upkeep


def delete_ended(tx: Transaction, now_ms: int, unused_since_ms: int) -> None:
    """Forget codes and spent tokens whose time is over, and clients that nobody uses."""
    for table in ("oauth_code", "oauth_device_code", "spent_refresh_token"):
        tx.execute(f"DELETE FROM {table} WHERE forget_ms <= ?", now_ms)
    tx.execute(
        "DELETE FROM oauth_client WHERE registered_ms <= ? AND NOT EXISTS"
        " (SELECT 1 FROM oauth_session AS s WHERE s.client_id = oauth_client.client_id)",
        unused_since_ms,
    )
