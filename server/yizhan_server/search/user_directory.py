"""The user directory: everybody with an account here, by name or user id.

In an office colleagues find each other without sharing a room first; people of other servers are
found once they share one.

Spec: client-server API, "User Directory".
"""

from __future__ import annotations

from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.protocol.identifiers import UserID, localpart_of
from yizhan_server.storage import directory


class UserDirectory:
    """Searches people."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def search(self, requester: UserID, term: str, limit: int) -> tuple[list[Any], bool]:
        """Return at most `limit` people whose name or id holds `term`, and whether there are more.

        Whose name or id begins with it come first.
        """
        wanted = term.casefold().removeprefix("@").strip()
        first: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        async for user_id, name_json, avatar_json in directory.scan_people(self._db):
            if user_id == requester:
                continue
            name = orjson.loads(name_json) if name_json is not None else None
            texts = (localpart_of(user_id).casefold(), name.casefold() if name else "")
            if not any(wanted in text for text in texts) and wanted != user_id[1:]:
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
