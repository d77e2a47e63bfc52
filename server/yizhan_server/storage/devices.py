"""Devices and the access and refresh tokens bound to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list
from yizhan_server.protocol.identifiers import DeviceID, UserID

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Device:
    """One device as stored."""

    device_id: DeviceID
    display_name: str | None
    last_seen_ms: int | None
    last_seen_ip: str | None
    last_seen_agent: str | None = None


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A stored access token, with what every request needs to know of its owner."""

    nid: int
    user_id: UserID
    device_id: DeviceID
    expires_ms: int | None
    supersedes: int | None
    is_admin: bool
    is_locked: bool
    is_suspended: bool
    is_guest: bool


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A stored refresh token."""

    nid: int
    user_id: UserID
    device_id: DeviceID
    is_locked: bool
    client_id: str | None
    """The OAuth client it was given to, None for one of /login."""


_OF_SESSIONS = ("access_token", "refresh_token", "spent_refresh_token", "oauth_session")
"""What a sign-in on the device ends, beside the device itself."""


async def find_devices(db: Database, user_id: UserID) -> list[Device]:
    """Return all devices of a user."""
    rows = await db.rows(
        "SELECT device_id, display_name, last_seen_ms, last_seen_ip, last_seen_agent FROM device"
        " WHERE user_id = ? ORDER BY device_id",
        user_id,
    )
    return [Device(DeviceID(row[0]), *row[1:]) for row in rows]


async def find_device(db: Database, user_id: UserID, device_id: str) -> Device | None:
    """Return one device of a user."""
    row = await db.row(
        "SELECT device_id, display_name, last_seen_ms, last_seen_ip, last_seen_agent FROM device"
        " WHERE user_id = ? AND device_id = ?",
        user_id, device_id,
    )  # fmt: skip
    return None if row is None else Device(DeviceID(row[0]), *row[1:])


def insert_device(
    tx: Transaction, user_id: UserID, device_id: DeviceID, display_name: str | None, now_ms: int
) -> None:
    """Create a device; one that exists keeps its name."""
    tx.execute(
        "INSERT INTO device"
        " (user_id, device_id, display_name, created_ms, last_seen_ms, last_seen_ip)"
        " VALUES (?, ?, ?, ?, NULL, NULL) ON CONFLICT DO NOTHING",
        user_id, device_id, display_name, now_ms,
    )  # fmt: skip


def update_device_name(tx: Transaction, user_id: UserID, device_id: str, display_name: str) -> None:
    """Rename a device. A guard: it must exist."""
    tx.guard(
        "UPDATE device SET display_name = ? WHERE user_id = ? AND device_id = ?",
        display_name, user_id, device_id,
    )  # fmt: skip


def update_last_seen(
    tx: Transaction, seen: Iterable[tuple[int, str | None, str | None, UserID, DeviceID]]
) -> None:
    """Write when and from where devices were last seen: (ms, address, agent, user, device)."""
    tx.execute_many(
        "UPDATE device SET last_seen_ms = ?, last_seen_ip = ?, last_seen_agent = ?"
        " WHERE user_id = ? AND device_id = ?",
        seen,
    )


def delete_devices(tx: Transaction, user_id: UserID, device_ids: Collection[str]) -> None:
    """Delete devices and the tokens bound to them."""
    for table in (*_OF_SESSIONS, "device"):
        tx.execute(
            *in_list(
                f"DELETE FROM {table} WHERE user_id = ? AND device_id IN (??)",
                user_id,
                list(device_ids),
            )
        )


def delete_devices_except(tx: Transaction, user_id: UserID, kept: str) -> None:
    """Delete every device of a user, and its tokens, but `kept` ('' keeps none).

    By condition, not by list: a device that signed in since the list was read goes as well.
    """
    for table in (*_OF_SESSIONS, "device"):
        tx.execute(
            f"DELETE FROM {table} WHERE user_id = ? AND device_id <> ?",
            user_id,
            kept,
        )


def delete_tokens(tx: Transaction, user_id: UserID, device_id: DeviceID) -> None:
    """Delete the tokens of a device, which stays."""
    for table in _OF_SESSIONS:
        tx.execute(
            f"DELETE FROM {table} WHERE user_id = ? AND device_id = ?",
            user_id,
            device_id,
        )


async def find_access_token(db: Database, digest: bytes) -> AccessToken | None:
    """Return the token with this digest, expired or not."""
    row = await db.row(
        "SELECT t.nid, t.user_id, t.device_id, t.expires_ms, t.supersedes, a.is_admin, a.is_locked,"
        " a.is_suspended, a.is_guest"
        " FROM access_token t JOIN account a ON a.user_id = t.user_id WHERE t.digest = ?",
        digest,
    )
    if row is None:
        return None
    nid, user_id, device_id, expires_ms, supersedes, is_admin, is_locked, *rest = row
    is_suspended, is_guest = rest
    return AccessToken(
        nid, UserID(user_id), DeviceID(device_id), expires_ms, supersedes, bool(is_admin),
        bool(is_locked), bool(is_suspended), bool(is_guest),
    )  # fmt: skip


async def find_refresh_token(db: Database, digest: bytes) -> RefreshToken | None:
    """Return the refresh token with this digest."""
    row = await db.row(
        "SELECT t.nid, t.user_id, t.device_id, a.is_locked, s.client_id"
        " FROM refresh_token t JOIN account a ON a.user_id = t.user_id"
        " LEFT JOIN oauth_session s ON s.user_id = t.user_id AND s.device_id = t.device_id"
        " WHERE t.digest = ?",
        digest,
    )
    if row is None:
        return None
    return RefreshToken(row[0], UserID(row[1]), DeviceID(row[2]), bool(row[3]), row[4])


def insert_access_token(
    tx: Transaction,
    nid: int,
    digest: bytes,
    user_id: UserID,
    device_id: DeviceID,
    *,
    expires_ms: int | None,
    supersedes: int | None,
) -> None:
    """Keep an access token."""
    tx.execute(
        "INSERT INTO access_token (nid, digest, user_id, device_id, expires_ms, supersedes)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        nid, digest, user_id, device_id, expires_ms, supersedes,
    )  # fmt: skip


def insert_refresh_token(
    tx: Transaction,
    nid: int,
    digest: bytes,
    user_id: UserID,
    device_id: DeviceID,
    *,
    supersedes: int | None,
) -> None:
    """Keep a refresh token."""
    tx.execute(
        "INSERT INTO refresh_token (nid, digest, user_id, device_id, supersedes)"
        " VALUES (?, ?, ?, ?, ?)",
        nid, digest, user_id, device_id, supersedes,
    )  # fmt: skip


def _remember_spent(tx: Transaction, nid_sql: str, nid: int, forget_ms: int) -> None:
    """Note that a refresh token of an OAuth session is replaced, before its row goes."""
    tx.execute(
        "INSERT INTO spent_refresh_token (digest, user_id, device_id, client_id, forget_ms)"
        " SELECT t.digest, t.user_id, t.device_id, s.client_id, CAST(? AS BIGINT)"
        " FROM refresh_token AS t JOIN oauth_session AS s"
        " ON s.user_id = t.user_id AND s.device_id = t.device_id"
        f" WHERE t.nid = {nid_sql} ON CONFLICT DO NOTHING",
        forget_ms, nid,
    )  # fmt: skip


def guard_refresh(tx: Transaction, used: RefreshToken, forget_ms: int) -> None:
    """Make `used` the only refresh token of its device.

    Its successors of an earlier, unanswered refresh go, and so does the one before it: that
    `used` is presented proves that the client has it. A guard: it must still be there.
    """
    _remember_spent(tx, "(SELECT supersedes FROM refresh_token WHERE nid = ?)", used.nid, forget_ms)
    tx.guard("UPDATE refresh_token SET supersedes = NULL WHERE nid = ?", used.nid)
    tx.execute(
        "DELETE FROM refresh_token WHERE user_id = ? AND device_id = ? AND nid <> ?",
        used.user_id, used.device_id, used.nid,
    )  # fmt: skip
    tx.execute(
        "DELETE FROM access_token WHERE user_id = ? AND device_id = ? AND supersedes = ?",
        used.user_id, used.device_id, used.nid,
    )  # fmt: skip


def confirm_refresh(tx: Transaction, token: AccessToken, forget_ms: int) -> None:
    """Make `token`, on its first use, the only access token of its device.

    The refresh token that bought it goes; the one that came with it stays. A guard: of two first
    uses at once only one does this, else the second would take the new refresh token for an old.
    """
    tx.guard(
        "UPDATE access_token SET supersedes = NULL WHERE nid = ? AND supersedes = ?",
        token.nid, token.supersedes,
    )  # fmt: skip
    assert token.supersedes is not None
    _remember_spent(tx, "?", token.supersedes, forget_ms)
    tx.execute(
        "DELETE FROM access_token WHERE user_id = ? AND device_id = ? AND nid <> ?",
        token.user_id, token.device_id, token.nid,
    )  # fmt: skip
    tx.execute(
        "DELETE FROM refresh_token WHERE user_id = ? AND device_id = ?"
        " AND (supersedes IS NULL OR supersedes <> ?)",
        token.user_id, token.device_id, token.supersedes,
    )  # fmt: skip
    tx.execute(
        "UPDATE refresh_token SET supersedes = NULL WHERE user_id = ? AND device_id = ?",
        token.user_id, token.device_id,
    )  # fmt: skip
