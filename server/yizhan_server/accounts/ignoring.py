"""Who ignores whom, from the account data `m.ignored_user_list`.

Asked for every event that is written, so all lists are held in memory by the ignored user: they are
few and short. A change of this process shows at once.

Spec: client-server API, "Ignoring Users".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from yizhan_server.storage import account_data as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.protocol.identifiers import UserID

IGNORED = "m.ignored_user_list"


class Ignoring:
    """Knows the ignored users of everybody here."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = asyncio.Lock()
        self._ignored: dict[UserID, frozenset[str]] | None = None
        self._ignorers: dict[str, set[UserID]] = {}
        self._changes = 0

    async def ignored_by(self, user_id: UserID) -> frozenset[str]:
        """Return whom a user ignores."""
        return (await self._loaded()).get(user_id, frozenset())

    async def ignorers_of(self, user_id: str) -> frozenset[UserID]:
        """Return the local users who ignore a user."""
        await self._loaded()
        return frozenset(self._ignorers.get(user_id, ()))

    def changed(self, user_id: UserID, content: bytes | None) -> None:
        """Take note of a list that has just become durable; None when it is gone."""
        self._changes += 1
        if self._ignored is not None:
            self._put(self._ignored, user_id, content)

    async def _loaded(self) -> dict[UserID, frozenset[str]]:
        async with self._lock:
            while self._ignored is None:
                changes = self._changes
                found = await storage.find_ignored_lists(self._db)
                # What changed meanwhile may have been read as it was before.
                if changes == self._changes:
                    lists: dict[UserID, frozenset[str]] = {}
                    for user_id, content in found:
                        self._put(lists, user_id, content)
                    self._ignored = lists
            return self._ignored

    def _put(
        self, lists: dict[UserID, frozenset[str]], user_id: UserID, content: bytes | None
    ) -> None:
        for other in lists.pop(user_id, ()):
            self._ignorers[other].discard(user_id)
            if not self._ignorers[other]:
                del self._ignorers[other]
        users = None if content is None else orjson.loads(content).get("ignored_users")
        if isinstance(users, dict) and users:
            lists[user_id] = frozenset(users)
            for other in users:
                self._ignorers.setdefault(other, set()).add(user_id)
