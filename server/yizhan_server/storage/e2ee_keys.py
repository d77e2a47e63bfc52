"""Public keys of devices and users, and the signatures among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from yizhan_database import Database, Pos, Row, Transaction

KEPT_UPLOADS = 20
"""For so many later uploads of its device a claimed key is remembered."""


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """What is stored of one device's keys."""

    user_id: str
    device_id: str
    keys: bytes | None
    ver: int


@dataclass(frozen=True, slots=True)
class OneTimeKey:
    """A one-time key, or a fallback key."""

    user_id: str
    device_id: str
    algorithm: str
    key_id: str
    key: bytes


@dataclass(frozen=True, slots=True)
class CrossSigningKeys:
    """A user's cross-signing keys as JSON."""

    user_id: str
    master: bytes
    self_signing: bytes | None
    user_signing: bytes | None
    ver: int


# region devices


async def find_device_keys(db: Database, user_id: str, device_id: str) -> DeviceKeys | None:
    """Return what is stored of one device."""
    row = await db.row(
        "SELECT user_id, device_id, keys, ver FROM device_keys WHERE user_id = ? AND device_id = ?",
        user_id, device_id,
    )  # fmt: skip
    return None if row is None else DeviceKeys(*row)


async def find_all_device_keys(db: Database, user_id: str) -> list[DeviceKeys]:
    """Return what is stored of each of a user's devices."""
    rows = await db.rows(
        "SELECT user_id, device_id, keys, ver FROM device_keys WHERE user_id = ?", user_id
    )
    return [DeviceKeys(*row) for row in rows]


async def find_devices_of_users(
    db: Database, user_ids: Collection[str]
) -> list[tuple[str, str, bytes, str | None]]:
    """Return (user, device, keys, display name) of the users' devices with identity keys."""
    rows = await db.rows(
        *in_list(
            "SELECT k.user_id, k.device_id, k.keys, d.display_name FROM device_keys AS k"
            " JOIN device AS d ON d.user_id = k.user_id AND d.device_id = k.device_id"
            " WHERE k.user_id IN (??) AND k.keys IS NOT NULL",
            user_ids,
        )
    )
    return [(user_id, device_id, keys, name) for user_id, device_id, keys, name in rows]


def advance_device_keys(
    tx: Transaction, user_id: str, device_id: str, keys: bytes | None, known_ver: int
) -> int:
    """Store a device's identity keys (or None), if it exists and is still at `known_ver`.

    A guard. Returns the new version, which is also the number of this upload. 0 is the version
    of what is not stored yet.
    """
    tx.guard(
        "INSERT INTO device_keys (user_id, device_id, keys, ver)"
        " SELECT user_id, device_id, ?, ? FROM device WHERE user_id = ? AND device_id = ?"
        " ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys, ver = excluded.ver"
        " WHERE device_keys.ver = ?",
        keys, known_ver + 1, user_id, device_id, known_ver,
    )  # fmt: skip
    return known_ver + 1


def delete_devices(tx: Transaction, user_id: str, device_ids: Collection[str]) -> None:
    """Delete everything that is stored of these devices."""
    for table in ("one_time_key", "fallback_key", "device_keys"):
        tx.execute(
            *in_list(
                f"DELETE FROM {table} WHERE user_id = ? AND device_id IN (??)",
                user_id,
                device_ids,
            )
        )


# region one-time keys


async def find_one_time_keys(
    db: Database, user_id: str, device_id: str, key_ids: Collection[str]
) -> list[OneTimeKey]:
    """Return the device's keys with these ids, of any algorithm, claimed ones included."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, device_id, algorithm, key_id, key FROM one_time_key"
            " WHERE user_id = ? AND device_id = ? AND key_id IN (??)",
            user_id, device_id, key_ids,
        )
    )  # fmt: skip
    return [OneTimeKey(*row) for row in rows]


def insert_one_time_keys(tx: Transaction, keys: Iterable[OneTimeKey], upload: int) -> None:
    """Add keys whose ids the device has not used yet."""
    tx.execute_many(
        "INSERT INTO one_time_key (user_id, device_id, algorithm, key_id, key, upload, claim)"
        " VALUES (?, ?, ?, ?, ?, ?, NULL)",
        [(k.user_id, k.device_id, k.algorithm, k.key_id, k.key, upload) for k in keys],
    )


def forget_claimed_keys(tx: Transaction, user_id: str, device_id: str, upload: int) -> None:
    """Delete the claimed keys of the device that came long before the upload `upload`."""
    tx.execute(
        "DELETE FROM one_time_key WHERE user_id = ? AND device_id = ? AND upload <= ?"
        " AND claim IS NOT NULL",
        user_id, device_id, upload - KEPT_UPLOADS,
    )  # fmt: skip


def delete_one_time_and_fallback_keys(tx: Transaction, user_id: str, device_id: str) -> None:
    """Delete all that an earlier identity of the device uploaded."""
    for table in ("one_time_key", "fallback_key"):
        tx.execute(
            f"DELETE FROM {table} WHERE user_id = ? AND device_id = ?",
            user_id,
            device_id,
        )


def upsert_fallback_keys(tx: Transaction, keys: Iterable[OneTimeKey]) -> None:
    """Make these the device's fallback keys of their algorithms.

    One that is uploaded again stays used: it is not fresh.
    """
    tx.execute_many(
        "INSERT INTO fallback_key (user_id, device_id, algorithm, key_id, key, used)"
        " VALUES (?, ?, ?, ?, ?, 0)"
        " ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET"
        " used = CASE WHEN fallback_key.key = excluded.key THEN fallback_key.used ELSE 0 END,"
        " key_id = excluded.key_id, key = excluded.key",
        [(k.user_id, k.device_id, k.algorithm, k.key_id, k.key) for k in keys],
    )


async def count_keys(db: Database, user_id: str, device_id: str) -> list[tuple[str, int]]:
    """Return (algorithm, unclaimed one-time keys), and (algorithm, -1) per unused fallback key."""
    rows = await db.rows(
        "SELECT algorithm, count(*) FROM one_time_key"
        " WHERE user_id = ? AND device_id = ? AND claim IS NULL GROUP BY algorithm"
        " UNION ALL SELECT algorithm, -1 FROM fallback_key"
        " WHERE user_id = ? AND device_id = ? AND used = 0",
        user_id, device_id, user_id, device_id,
    )  # fmt: skip
    return [(algorithm, count) for algorithm, count in rows]


def claim_one_time_keys(
    tx: Transaction, wanted: Iterable[tuple[str, str, str]], claim: int
) -> None:
    """Take the oldest unclaimed key for each (user, device, algorithm) that has one.

    The key is chosen within the commit. `claim IS NULL` stands in both conditions: on PostgreSQL
    another process may take the chosen key while this statement waits for its row, and then the
    outer condition is judged anew; the statement takes nothing, rather than the same key twice.
    """
    tx.execute_many(
        "UPDATE one_time_key SET claim = ?"
        " WHERE user_id = ? AND device_id = ? AND algorithm = ? AND claim IS NULL AND key_id ="
        " (SELECT k.key_id FROM one_time_key AS k"
        " WHERE k.user_id = ? AND k.device_id = ? AND k.algorithm = ? AND k.claim IS NULL"
        " ORDER BY k.upload, k.key_id LIMIT 1)",
        [(claim, *each, *each) for each in wanted],
    )


async def find_claimed(db: Database, claim: int) -> list[OneTimeKey]:
    """Return the keys that a claim took."""
    rows = await db.rows(
        "SELECT user_id, device_id, algorithm, key_id, key FROM one_time_key WHERE claim = ?", claim
    )
    return [OneTimeKey(*row) for row in rows]


async def devices_with_unclaimed_keys(
    db: Database, user_ids: Collection[str], algorithm: str
) -> set[tuple[str, str, str]]:
    """Return (user, device, algorithm) of the users' devices that have an unclaimed key."""
    rows = await db.rows(
        *in_list(
            "SELECT d.user_id, d.device_id FROM device_keys AS d WHERE d.user_id IN (??)"
            " AND EXISTS (SELECT 1 FROM one_time_key AS k WHERE k.user_id = d.user_id"
            " AND k.device_id = d.device_id AND k.algorithm = ? AND k.claim IS NULL)",
            user_ids, algorithm,
        )
    )  # fmt: skip
    return {(user_id, device_id, algorithm) for user_id, device_id in rows}


async def find_fallback_keys(
    db: Database, user_ids: Collection[str]
) -> list[tuple[OneTimeKey, bool]]:
    """Return the fallback keys of the users' devices, and whether each was used."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, device_id, algorithm, key_id, key, used FROM fallback_key"
            " WHERE user_id IN (??)",
            user_ids,
        )
    )
    return [(OneTimeKey(*row[:5]), bool(row[5])) for row in rows]


def mark_fallback_keys_used(tx: Transaction, keys: Iterable[OneTimeKey]) -> None:
    """Note that these fallback keys, unless replaced meanwhile, were given out."""
    tx.execute_many(
        "UPDATE fallback_key SET used = 1"
        " WHERE user_id = ? AND device_id = ? AND algorithm = ? AND key_id = ?",
        [(k.user_id, k.device_id, k.algorithm, k.key_id) for k in keys],
    )


# region cross-signing


async def find_cross_signing(
    db: Database, user_ids: Collection[str]
) -> dict[str, CrossSigningKeys]:
    """Return the cross-signing keys of those of the users who have any."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, master, self_signing, user_signing, ver FROM cross_signing"
            " WHERE user_id IN (??)",
            user_ids,
        )
    )
    return {row[0]: CrossSigningKeys(*row) for row in rows}


def advance_cross_signing(tx: Transaction, keys: CrossSigningKeys, known_ver: int) -> None:
    """Store a user's cross-signing keys, if they are still at `known_ver` (0: none yet).

    A guard.
    """
    tx.guard(
        "INSERT INTO cross_signing (user_id, master, self_signing, user_signing, ver)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET master = excluded.master,"
        " self_signing = excluded.self_signing, user_signing = excluded.user_signing,"
        " ver = excluded.ver WHERE cross_signing.ver = ?",
        keys.user_id, keys.master, keys.self_signing, keys.user_signing, known_ver + 1, known_ver,
    )  # fmt: skip


def delete_cross_signing(tx: Transaction, user_id: str) -> None:
    """Delete a user's cross-signing keys and all signatures by and of them."""
    tx.execute("DELETE FROM cross_signing WHERE user_id = ?", user_id)
    delete_signatures_of(tx, user_id)
    delete_signatures_by(tx, user_id)


def delete_known_cross_signing(tx: Transaction, user_id: str, known_ver: int) -> None:
    """Do the same, if the keys are still at `known_ver`. A guard."""
    tx.guard("DELETE FROM cross_signing WHERE user_id = ? AND ver = ?", user_id, known_ver)
    delete_signatures_of(tx, user_id)
    delete_signatures_by(tx, user_id)


def upsert_master_signature(
    tx: Transaction,
    *,
    signer: str,
    signer_key: str,
    target: str,
    target_key: str,
    signature: str,
    pos: Pos,
) -> None:
    """Store one user's signature of another's master key."""
    tx.execute(
        "INSERT INTO master_signature (signer, target, signer_key, target_key, signature, pos)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (signer, target) DO UPDATE SET"
        " signer_key = excluded.signer_key, target_key = excluded.target_key,"
        " signature = excluded.signature, pos = excluded.pos",
        signer, target, signer_key, target_key, signature, pos,
    )  # fmt: skip


def delete_signatures_of(tx: Transaction, target: str) -> None:
    """Delete other users' signatures of a master key that is no longer valid."""
    tx.execute("DELETE FROM master_signature WHERE target = ?", target)


def delete_signatures_by(tx: Transaction, signer: str) -> None:
    """Delete the signatures made by a user-signing key that is no longer valid."""
    tx.execute("DELETE FROM master_signature WHERE signer = ?", signer)


async def find_master_signatures(db: Database, signer: str, targets: Collection[str]) -> list[Row]:
    """Return (target, signer key, target key, signature) of `signer`'s signatures of targets."""
    return await db.rows(
        *in_list(
            "SELECT target, signer_key, target_key, signature FROM master_signature"
            " WHERE signer = ? AND target IN (??)",
            signer, targets,
        )
    )  # fmt: skip
