"""The user directory: people by name or user id.

In an office colleagues find each other without sharing a room first. Where that is not wanted
(`directory.everybody`), only those are found who share a room with whoever looks, or are in a
public one.

Spec: client-server API, "User Directory".
"""

from __future__ import annotations

from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.protocol.identifiers import UserID, localpart_of
from yizhan_server.rooms.registry import Rooms
from yizhan_server.storage import directory
from yizhan_server.storage import rooms as stored_rooms

_PUBLIC = (
    ("m.room.join_rules", "join_rule", "public"),
    ("m.room.history_visibility", "history_visibility", "world_readable"),
)


class UserDirectory:
    """Searches people."""

    def __init__(self, db: Database, rooms: Rooms, *, everybody: bool) -> None:
        self._db = db
        self._rooms = rooms
        self._everybody = everybody

    async def search(self, requester: UserID, term: str, limit: int) -> tuple[list[Any], bool]:
        """Return at most `limit` people whose name or id holds `term`, and whether there are more.

        Whose name or id begins with it come first.
        """
        sharing: set[str] = set()
        if not self._everybody:
            sharing = {*await stored_rooms.users_sharing_rooms(self._db, requester)} - {requester}
        wanted = term.casefold().removeprefix("@").strip()
        first: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        async for user_id, name_json, avatar_json in directory.scan_people(self._db):
            if user_id == requester and self._everybody:
                continue
            name = orjson.loads(name_json) if name_json is not None else None
            texts = (localpart_of(user_id).casefold(), name.casefold() if name else "")
            if not any(wanted in text for text in texts) and wanted != user_id[1:]:
                continue
            if not (self._everybody or user_id in sharing or await self._is_public(user_id)):
                continue
            person: dict[str, Any] = {"user_id": user_id}
            if name is not None:
                person["display_name"] = name
            if avatar_json is not None:
                person["avatar_url"] = orjson.loads(avatar_json)
            begins = any(text.startswith(wanted) for text in texts)
            (first if begins else others).append(person)
            if len(first) > limit:
                break
        found = [*first, *others]
        return found[:limit], len(found) > limit

    async def _is_public(self, user_id: str) -> bool:
        """Whether the user is in a room that anybody may join or read."""
        joined = [
            each.room
            for each in await stored_rooms.memberships_of_user(self._db, user_id)
            if each.membership == "join"
        ]
        for room in (await self._rooms.by_nid(joined)).values():
            for kind, field, value in _PUBLIC:
                event = await room.state_event(kind)
                if event is not None and event.pdu.content.get(field) == value:
                    return True
        return False
