"""Every account with what is shown of it in a list, read off the event loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from yizhan_server.storage.accounts import COLUMNS, Account, account_from

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_database import Database


@dataclass(frozen=True, slots=True)
class ListedAccount:
    """An account with its profile, and when any of its devices was last seen."""

    account: Account
    display_name: str | None
    avatar_url: str | None
    last_seen_ms: int | None


async def scan_listed_accounts(db: Database) -> AsyncIterator[ListedAccount]:
    """Yield every account, by user id."""
    sql = (
        f"SELECT {COLUMNS},"
        " (SELECT p.value FROM profile_field AS p"
        " WHERE p.user_id = account.user_id AND p.field = 'displayname'),"
        " (SELECT p.value FROM profile_field AS p"
        " WHERE p.user_id = account.user_id AND p.field = 'avatar_url'),"
        " (SELECT max(d.last_seen_ms) FROM device AS d WHERE d.user_id = account.user_id)"
        " FROM account WHERE user_id > ? ORDER BY user_id LIMIT ?"
    )
    async for *columns, name, avatar, last_seen_ms in db.scan(sql, after=""):
        yield ListedAccount(
            account_from(tuple(columns)),
            None if name is None else orjson.loads(name),
            None if avatar is None else orjson.loads(avatar),
            last_seen_ms,
        )
