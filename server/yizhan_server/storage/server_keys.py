"""Signing keys of other servers, and what each server last published."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from yizhan_database import Database, Transaction, in_list


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of a server."""

    key_id: str
    public_key: bytes
    valid_until_ms: int
    is_old: bool


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What a server published, signed by itself."""

    answer: bytes
    fetched_ms: int
    valid_until_ms: int


async def find_keys(db: Database, server_name: str) -> list[StoredKey]:
    """Return all keys that are known of a server."""
    rows = await db.rows(
        "SELECT key_id, public_key, valid_until_ms, is_old FROM server_key WHERE server_name = ?",
        server_name,
    )
    return [StoredKey(key_id, key, until_ms, bool(old)) for key_id, key, until_ms, old in rows]


def upsert_keys(tx: Transaction, server_name: str, keys: Iterable[StoredKey]) -> None:
    """Keep what is now known of these keys."""
    tx.execute_many(
        "INSERT INTO server_key (server_name, key_id, public_key, valid_until_ms, is_old)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (server_name, key_id) DO UPDATE SET"
        " public_key = excluded.public_key, valid_until_ms = excluded.valid_until_ms,"
        " is_old = excluded.is_old",
        [(server_name, k.key_id, k.public_key, k.valid_until_ms, int(k.is_old)) for k in keys],
    )


def delete_keys(tx: Transaction, server_name: str, key_ids: Collection[str]) -> None:
    """Forget keys of a server that has had too many."""
    tx.execute(
        *in_list(
            "DELETE FROM server_key WHERE server_name = ? AND key_id IN (??)", server_name, key_ids
        )
    )


def keep_answer(tx: Transaction, server_name: str, key_ids: Collection[str], answer: bytes) -> None:
    """Keep what a server published while it listed these keys, if nothing older is kept."""
    tx.execute(
        *in_list(
            "UPDATE server_key SET answer = ?"
            " WHERE server_name = ? AND answer IS NULL AND key_id IN (??)",
            answer, server_name, key_ids,
        )
    )  # fmt: skip


async def find_kept_answers(
    db: Database, server_name: str, key_ids: Collection[str]
) -> list[bytes]:
    """Return what is kept of what a server published while it listed these keys."""
    rows = await db.rows(
        *in_list(
            "SELECT DISTINCT answer FROM server_key"
            " WHERE server_name = ? AND answer IS NOT NULL AND key_id IN (??)",
            server_name, key_ids,
        )
    )  # fmt: skip
    return [answer for (answer,) in rows]


async def find_answer(db: Database, server_name: str) -> StoredAnswer | None:
    """Return what a server last published."""
    row = await db.row(
        "SELECT answer, fetched_ms, valid_until_ms FROM server_key_answer WHERE server_name = ?",
        server_name,
    )
    return None if row is None else StoredAnswer(*row)


def upsert_answer(tx: Transaction, server_name: str, answer: StoredAnswer) -> None:
    """Keep what a server published."""
    tx.execute(
        "INSERT INTO server_key_answer (server_name, answer, fetched_ms, valid_until_ms)"
        " VALUES (?, ?, ?, ?) ON CONFLICT (server_name) DO UPDATE SET"
        " answer = excluded.answer, fetched_ms = excluded.fetched_ms,"
        " valid_until_ms = excluded.valid_until_ms",
        server_name, answer.answer, answer.fetched_ms, answer.valid_until_ms,
    )  # fmt: skip
