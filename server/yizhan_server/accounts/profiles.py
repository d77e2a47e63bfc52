"""Profiles of local users: display name, avatar, and any further fields.

Setting a field here does not tell the rooms; `flows.profile_change` does both.

Spec: client-server API, "Profiles" (fields since v1.16).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from yizhan_database import Transaction
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import InvalidParam, MatrixError
from yizhan_server.storage import profiles as storage

if TYPE_CHECKING:
    from collections.abc import Collection

    from yizhan_database import Database
    from yizhan_server.protocol.identifiers import UserID

DISPLAY_NAME = "displayname"
AVATAR_URL = "avatar_url"

MAX_PROFILE_BYTES = 65_536
MAX_FIELD_NAME_BYTES = 255
# Both are copied into every member event, which has to fit into 64 KiB with what else it holds.
MAX_DISPLAY_NAME_BYTES = 1024
MAX_AVATAR_URL_BYTES = 1024

_FIELD_NAME = re.compile(r"avatar_url|displayname|m\.tz|[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_-]*)+")


class Profiles:
    """The profiles of local users."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, user_id: UserID) -> dict[str, Any]:
        """Return a user's profile, {} when there is none."""
        fields = await storage.find_fields(self._db, user_id)
        return {name: orjson.loads(value) for name, value in fields.items()}

    async def find_display_names(self, user_ids: Collection[UserID]) -> dict[UserID, str]:
        """Return the display names of those users who have one."""
        found = await storage.find_field_of(self._db, user_ids, DISPLAY_NAME)
        return {user_id: orjson.loads(value) for user_id, value in found.items()}

    async def set(self, user_id: UserID, field: str, value: object) -> bool:
        """Set a field; True when that changed it.

        For display name and avatar null (and, as clients do it, '') removes. Answers
        M_INVALID_PARAM, M_KEY_TOO_LARGE or M_PROFILE_TOO_LARGE.
        """
        check_field_name(field)
        if field in (DISPLAY_NAME, AVATAR_URL) and value in (None, ""):
            return await self.remove(user_id, field)
        encoded = check_field_value(field, value)
        fields = await storage.find_fields(self._db, user_id)
        if fields.get(field) == encoded:
            return False
        fields[field] = encoded
        # Quotes, colon and comma of each member, and the braces.
        size = 2 + sum(len(name) + 4 + len(content) for name, content in fields.items())
        if size >= MAX_PROFILE_BYTES:
            raise MatrixError(
                400, "M_PROFILE_TOO_LARGE", f"A profile is smaller than {MAX_PROFILE_BYTES} bytes"
            )
        tx = Transaction()
        storage.upsert_field(tx, user_id, field, encoded)
        await self._db.commit(tx)
        return True

    async def remove(self, user_id: UserID, field: str) -> bool:
        """Remove a field; True when it was there."""
        check_field_name(field)
        if field not in await storage.find_fields(self._db, user_id):
            return False
        tx = Transaction()
        storage.delete_field(tx, user_id, field)
        await self._db.commit(tx)
        return True

    def record_display_name(self, tx: Transaction, user_id: UserID, display_name: str) -> None:
        """Record the display name of an account that is only just being created."""
        storage.upsert_field(
            tx, user_id, DISPLAY_NAME, check_field_value(DISPLAY_NAME, display_name)
        )

    def record_removal(self, tx: Transaction, user_id: UserID) -> None:
        """Record the removal of the entire profile."""
        storage.delete_profile(tx, user_id)


def check_field_name(field: str) -> str:
    """Return `field`, or answer M_KEY_TOO_LARGE or M_INVALID_PARAM."""
    if len(field.encode("utf-8", "surrogatepass")) > MAX_FIELD_NAME_BYTES:
        raise MatrixError(
            400, "M_KEY_TOO_LARGE", f"A field's name has at most {MAX_FIELD_NAME_BYTES} bytes"
        )
    if _FIELD_NAME.fullmatch(field) is None:
        raise InvalidParam("Not the name of a profile field")
    return field


def check_field_value(field: str, value: object) -> bytes:
    """Return a field's value as JSON, or answer M_INVALID_PARAM or M_BAD_JSON."""
    encoded = encode_canonical(value)
    if field == DISPLAY_NAME and (
        not isinstance(value, str) or len(encoded) > MAX_DISPLAY_NAME_BYTES
    ):
        raise InvalidParam(f"displayname is a string of at most {MAX_DISPLAY_NAME_BYTES} bytes")
    # Bridges of old set what the other network has: not mxc:// URIs. To refuse them would keep
    # nothing out, for a member event says what its sender likes; clients show nothing else.
    if field == AVATAR_URL and (not isinstance(value, str) or len(encoded) > MAX_AVATAR_URL_BYTES):
        raise InvalidParam(f"avatar_url is a URI of at most {MAX_AVATAR_URL_BYTES} bytes")
    if field == "m.tz" and not isinstance(value, str):
        raise InvalidParam("m.tz is a string")
    return encoded
