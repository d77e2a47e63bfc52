"""Account data and tags: what a user's devices share with each other through the server.

Spec: client-server API, "Client Config", "Room Tagging".
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import orjson

from yizhan_database import Transaction
from yizhan_server.accounts.ignoring import IGNORED
from yizhan_server.accounts.own_change import record_own_change
from yizhan_server.accounts.text import check_text
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import BadJson, InvalidParam, MatrixError, NotFound
from yizhan_server.storage import account_data as storage
from yizhan_server.storage.account_data import GLOBAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_database import Database
    from yizhan_server.accounts.ignoring import Ignoring
    from yizhan_server.protocol.identifiers import RoomID, UserID
    from yizhan_server.streams import Stream

TAGS = "m.tag"
SERVER_MANAGED = frozenset({"m.fully_read", "m.push_rules"})

MAX_TAGS = 100
MAX_TYPE_BYTES = 255


class AccountData:
    """Stores account data; each change takes a position and wakes its owner's devices."""

    def __init__(self, db: Database, stream: Stream, ignoring: Ignoring) -> None:
        self._db = db
        self._stream = stream
        self._ignoring = ignoring
        # Two devices that change different tags of a room at once must not undo each other.
        self._tag_locks: WeakValueDictionary[tuple[UserID, str], asyncio.Lock] = (
            WeakValueDictionary()
        )

    async def get(self, user_id: UserID, kind: str, room_id: RoomID | str = GLOBAL) -> bytes:
        """Return the content of a type as JSON, or answer M_NOT_FOUND."""
        check_text(kind, "The type", max_bytes=MAX_TYPE_BYTES)
        content = await storage.find_account_datum(self._db, user_id, room_id, kind)
        if content is None:
            raise NotFound("There is no account data of this type")
        return content

    async def set(
        self, user_id: UserID, kind: str, content: dict[str, Any], room_id: RoomID | str = GLOBAL
    ) -> None:
        """Set the content of a type, or answer 405 for the types that the server manages."""
        check_text(kind, "The type", max_bytes=MAX_TYPE_BYTES)
        if kind in SERVER_MANAGED:
            raise MatrixError(405, "M_BAD_JSON", f"{kind} cannot be set through this API")
        if kind == TAGS and room_id != GLOBAL:
            _check_tags(content.get("tags"))
        await self._commit(user_id, room_id, kind, content)

    async def get_tags(self, user_id: UserID, room_id: RoomID) -> dict[str, Any]:
        """Return the tags of a room, by name."""
        content = await storage.find_account_datum(self._db, user_id, room_id, TAGS)
        tags = {} if content is None else orjson.loads(content).get("tags")
        return tags if isinstance(tags, dict) else {}

    async def set_tag(
        self, user_id: UserID, room_id: RoomID, tag: str, content: dict[str, Any]
    ) -> None:
        """Tag a room."""
        check_text(tag, "The tag")
        _check_tags({tag: content})
        async with self._changing_tags(user_id, room_id) as tags:
            tags[tag] = content
            _check_tags(tags)

    async def remove_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        """Remove a tag from a room; one that is not there does no harm."""
        async with self._changing_tags(user_id, room_id) as tags:
            tags.pop(tag, None)

    @asynccontextmanager
    async def _changing_tags(
        self, user_id: UserID, room_id: RoomID
    ) -> AsyncIterator[dict[str, Any]]:
        lock = self._tag_locks.setdefault((user_id, room_id), asyncio.Lock())
        async with lock:
            tags = await self.get_tags(user_id, room_id)
            yield tags
            await self._commit(user_id, room_id, TAGS, {"tags": tags})

    async def _commit(
        self, user_id: UserID, room_id: str, kind: str, content: dict[str, Any]
    ) -> None:
        encoded = encode_canonical(content)
        tx = Transaction()
        pos = record_own_change(tx, self._stream, user_id)
        storage.upsert_account_datum(tx, user_id, room_id, kind, content=encoded, pos=pos)
        if kind == IGNORED and room_id == GLOBAL:
            tx.after_commit(lambda _: self._ignoring.changed(user_id, encoded))
        await self._db.commit(tx)


def _check_tags(tags: object) -> None:
    if not isinstance(tags, dict) or not all(isinstance(tag, dict) for tag in tags.values()):
        raise BadJson("'tags' maps names to objects")
    if len(tags) > MAX_TAGS:
        raise InvalidParam(f"A room has at most {MAX_TAGS} tags")
