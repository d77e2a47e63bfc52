"""Account data and push rules as a sync shows them.

Spec: client-server API, "Client Config", "Push Rules" (m.push_rules).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.accounts.invite_permission import blocks_invites
from yizhan_server.accounts.push_rules import PushRules
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.storage import account_data as storage
from yizhan_server.storage.account_data import GLOBAL

IGNORED = "m.ignored_user_list"
DIRECT = "m.direct"


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """Changed account data, as events without a room and by room id."""

    everywhere: list[dict[str, Any]] = field(default_factory=list)
    by_room: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class AccountDataChanges:
    """Finds what changed in a user's account data."""

    def __init__(self, db: Database, push_rules: PushRules) -> None:
        self._db = db
        self._push_rules = push_rules

    async def changed(self, user_id: UserID, after: int | None, upto: int) -> AccountChanges:
        """Return what changed in (after, upto]; everything when `after` is None."""
        changes = AccountChanges()
        if after is None:
            rules = await self._push_rules.get(user_id)
            changes.everywhere.append({"type": "m.push_rules", "content": {"global": rules}})
        else:
            found = await self._push_rules.find_changed(user_id, after, upto)
            if found is not None:
                changes.everywhere.append({"type": "m.push_rules", "content": {"global": found[0]}})
        for datum in await storage.find_account_data(self._db, user_id, after or 0, upto):
            event = {"type": datum.type, "content": orjson.Fragment(datum.content)}
            if datum.room_id == GLOBAL:
                changes.everywhere.append(event)
            else:
                changes.by_room.setdefault(datum.room_id, []).append(event)
        return changes

    async def of_room(
        self, user_id: UserID, room_id: str, after: int, upto: int
    ) -> list[dict[str, Any]]:
        """Return what changed in (after, upto] for one room."""
        found = await storage.find_room_account_data(self._db, user_id, room_id, after, upto)
        return [{"type": each.type, "content": orjson.Fragment(each.content)} for each in found]

    async def direct_rooms(self, user_id: UserID) -> frozenset[str]:
        """Return the ids of the rooms that the user's clients marked as direct chats."""
        content = await storage.find_account_datum(self._db, user_id, GLOBAL, DIRECT)
        rooms = {} if content is None else orjson.loads(content)
        if not isinstance(rooms, dict):
            return frozenset()
        return frozenset(
            room_id
            for of_person in rooms.values()
            if isinstance(of_person, list)
            for room_id in of_person
            if isinstance(room_id, str)
        )

    async def tags(self, user_id: UserID) -> dict[str, frozenset[str]]:
        """Return the names of the tags of each room that has any."""
        tags = {}
        for room_id, content in (await storage.find_tags(self._db, user_id)).items():
            names = orjson.loads(content).get("tags")
            tags[room_id] = frozenset(names) if isinstance(names, dict) else frozenset()
        return tags

    async def blocks_invites(self, user_id: UserID) -> bool:
        """Whether the user wants to see no invitations at all."""
        return await blocks_invites(self._db, user_id)

    async def ignored_users(self, user_id: UserID) -> frozenset[str]:
        """Return whom the user ignores."""
        content = await storage.find_account_datum(self._db, user_id, GLOBAL, IGNORED)
        users = {} if content is None else orjson.loads(content).get("ignored_users")
        return frozenset(users) if isinstance(users, dict) else frozenset()
