"""Account data, global (`room_id` '') and per room, and the push rules that show as such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list
from yizhan_server.protocol.identifiers import UserID

if TYPE_CHECKING:
    from collections.abc import Collection

    from yizhan_database import Database, Pos, Transaction

GLOBAL = ""


@dataclass(frozen=True, slots=True)
class AccountDatum:
    """One account-data event."""

    room_id: str
    type: str
    content: bytes
    """JSON."""
    pos: int


async def find_account_data(
    db: Database, user_id: UserID, after: int, up_to: int
) -> list[AccountDatum]:
    """Return what was set at positions in (after, up_to], in that order, for /sync."""
    rows = await db.rows(
        "SELECT room_id, type, content, pos FROM account_data"
        " WHERE user_id = ? AND pos > ? AND pos <= ? ORDER BY pos",
        user_id, after, up_to,
    )  # fmt: skip
    return [AccountDatum(*row) for row in rows]


async def find_room_account_data(
    db: Database, user_id: UserID, room_id: str, after: int, up_to: int
) -> list[AccountDatum]:
    """Return what was set for one room at positions in (after, up_to]."""
    rows = await db.rows(
        "SELECT room_id, type, content, pos FROM account_data"
        " WHERE user_id = ? AND room_id = ? AND pos > ? AND pos <= ?",
        user_id, room_id, after, up_to,
    )  # fmt: skip
    return [AccountDatum(*row) for row in rows]


async def find_tags(db: Database, user_id: UserID) -> dict[str, bytes]:
    """Return the content of the tags of each room that has any."""
    rows = await db.rows(
        "SELECT room_id, content FROM account_data WHERE user_id = ? AND type = 'm.tag'", user_id
    )
    return dict(rows)


async def find_account_datum(
    db: Database, user_id: UserID, room_id: str, kind: str
) -> bytes | None:
    """Return the content of one type as JSON, or None."""
    row = await db.row(
        "SELECT content FROM account_data WHERE user_id = ? AND room_id = ? AND type = ?",
        user_id, room_id, kind,
    )  # fmt: skip
    return None if row is None else row[0]


async def find_ignored_lists(db: Database) -> list[tuple[UserID, bytes]]:
    """Return everybody's list of ignored users, as JSON."""
    rows = await db.rows(
        "SELECT user_id, content FROM account_data"
        " WHERE type = 'm.ignored_user_list' AND room_id = ''"
        " /* scan: an index of just these, read once */"
    )
    return [(UserID(user_id), content) for user_id, content in rows]


def upsert_account_datum(
    tx: Transaction, user_id: UserID, room_id: str, kind: str, *, content: bytes, pos: Pos
) -> None:
    """Set the content of one type."""
    tx.execute(
        "INSERT INTO account_data (user_id, room_id, type, content, pos) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (user_id, room_id, type)"
        " DO UPDATE SET content = excluded.content, pos = excluded.pos",
        user_id, room_id, kind, content, pos,
    )  # fmt: skip


def delete_account_data(tx: Transaction, user_id: UserID) -> None:
    """Remove all account data, push rules and filters of a user."""
    for table in ("account_data", "push_rules", "filter"):
        tx.execute(f"DELETE FROM {table} WHERE user_id = ?", user_id)


@dataclass(frozen=True, slots=True)
class StoredRules:
    """A user's push rules as stored."""

    ruleset: bytes
    pos: int
    ver: int


async def find_push_rules(db: Database, user_id: UserID) -> StoredRules | None:
    """Return a user's push rules, None for one who never changed a rule."""
    row = await db.row("SELECT ruleset, pos, ver FROM push_rules WHERE user_id = ?", user_id)
    return None if row is None else StoredRules(*row)


async def find_push_rules_of(
    db: Database, user_ids: Collection[UserID]
) -> dict[UserID, StoredRules]:
    """Return the push rules of those among `user_ids` who changed any."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, ruleset, pos, ver FROM push_rules WHERE user_id IN (??)",
            list(user_ids),
        )
    )
    return {UserID(row[0]): StoredRules(*row[1:]) for row in rows}


def insert_push_rules(tx: Transaction, user_id: UserID, ruleset: bytes, pos: Pos) -> None:
    """Keep a user's first change. A guard: another device's first change undoes it."""
    tx.guard(
        "INSERT INTO push_rules (user_id, ruleset, pos, ver) VALUES (?, ?, ?, 1)"
        " ON CONFLICT DO NOTHING",
        user_id, ruleset, pos,
    )  # fmt: skip


def update_push_rules(
    tx: Transaction, user_id: UserID, known_ver: int, ruleset: bytes, pos: Pos
) -> None:
    """Replace a user's push rules. A guard: another device's change since undoes it."""
    tx.guard(
        "UPDATE push_rules SET ruleset = ?, pos = ?, ver = ver + 1 WHERE user_id = ? AND ver = ?",
        ruleset, pos, user_id, known_ver,
    )  # fmt: skip


async def find_filter(db: Database, user_id: UserID, filter_id: str) -> bytes | None:
    """Return a filter as JSON."""
    row = await db.row(
        "SELECT body FROM filter WHERE user_id = ? AND filter_id = ?", user_id, filter_id
    )
    return None if row is None else row[0]


def insert_filter(tx: Transaction, user_id: UserID, filter_id: str, body: bytes) -> None:
    """Keep a filter; the same one again changes nothing."""
    tx.execute(
        "INSERT INTO filter (user_id, filter_id, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        user_id, filter_id, body,
    )  # fmt: skip
