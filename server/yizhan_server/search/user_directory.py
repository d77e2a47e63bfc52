"""The user directory: people by name or user id.

In an office colleagues find each other without sharing a room first. Where that is not wanted
(`directory.everybody`), only those are found who share a room with whoever looks, or are in a
public one. Of other servers' people those are found who share a room with whoever looks, or are in
a room that this server lists.

Spec: client-server API, "User Directory".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import orjson

from yizhan_database import Database
from yizhan_server.protocol.identifiers import ServerName, UserID, localpart_of, server_name_of
from yizhan_server.rooms.registry import Rooms
from yizhan_server.storage import directory
from yizhan_server.storage import rooms as stored_rooms

_PUBLIC = (
    ("m.room.join_rules", "join_rule", "public"),
    ("m.room.history_visibility", "history_visibility", "world_readable"),
)


class _Shown(msgspec.Struct):
    """How a member event shows somebody; of any type, since it may be another server's."""

    displayname: Any = None
    avatar_url: Any = None


class _Member(msgspec.Struct):
    content: _Shown


_MEMBER = msgspec.json.Decoder(_Member)


class UserDirectory:
    """Searches people."""

    def __init__(
        self, db: Database, rooms: Rooms, server_name: ServerName, *, everybody: bool
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._server_name = server_name
        self._everybody = everybody

    async def search(self, requester: UserID, term: str, limit: int) -> tuple[list[Any], bool]:
        """Return at most `limit` people whose name or id holds `term`, and whether there are more.

        Whose name or id begins with it come first, and people of this server before others.
        """
        wanted = term.casefold().removeprefix("@").strip()
        first: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for people in (self._of_this_server, self._of_others):
            async for person, texts in people(requester, wanted):
                begins = any(text.startswith(wanted) for text in texts)
                (first if begins else others).append(person)
                if len(first) > limit:
                    return first[:limit], True
        found = [*first, *others]
        return found[:limit], len(found) > limit

    async def _of_this_server(self, requester: UserID, wanted: str) -> AsyncIterator[_Found]:
        sharing: set[str] = set()
        if not self._everybody:
            sharing = {*await stored_rooms.users_sharing_rooms(self._db, requester)} - {requester}
        async for user_id, name_json, avatar_json in directory.scan_people(self._db):
            if user_id == requester and self._everybody:
                continue
            name = orjson.loads(name_json) if name_json is not None else None
            avatar = orjson.loads(avatar_json) if avatar_json is not None else None
            found = _matching(user_id, name, avatar, wanted)
            if found is None:
                continue
            if self._everybody or user_id in sharing or await self._is_public(user_id):
                yield found

    async def _of_others(self, requester: UserID, wanted: str) -> AsyncIterator[_Found]:
        """Yield people of other servers, as the rooms show them in which they are met."""
        met: set[str] = set()
        for room in await directory.rooms_with_strangers(self._db, self._server_name, requester):
            async for user_id, client in directory.scan_members(self._db, room):
                if user_id in met or server_name_of(user_id) == self._server_name:
                    continue
                met.add(user_id)
                shown = _MEMBER.decode(client).content
                found = _matching(user_id, shown.displayname, shown.avatar_url, wanted)
                if found is not None:
                    yield found

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


_Found = tuple[dict[str, Any], tuple[str, str]]
"""Somebody as the answer shows them, and the texts that were looked at."""


def _matching(user_id: str, name: Any, avatar: Any, wanted: str) -> _Found | None:
    """Return somebody, if name or id hold what is wanted."""
    name = name if isinstance(name, str) else None
    texts = (localpart_of(user_id).casefold(), name.casefold() if name else "")
    if not any(wanted in text for text in texts) and wanted != user_id[1:]:
        return None
    person: dict[str, Any] = {"user_id": user_id}
    if name is not None:
        person["display_name"] = name
    if isinstance(avatar, str):
        person["avatar_url"] = avatar
    return person, texts
