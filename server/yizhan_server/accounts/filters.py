"""Filters: checked, then stored under the beginning of their digest.

The same filter gets the same id for ever, so a client that uploads its filter at every start
adds nothing.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import orjson

from yizhan_database import Transaction
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import BadJson, NotFound
from yizhan_server.storage import account_data as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.protocol.identifiers import UserID

MAX_FILTER_BYTES = 65_536
T = TypeVar("T")

# Only what kind of identifier it is: a filter may name whom or what no longer exists.
_UserId = Annotated[str, msgspec.Meta(pattern="^@")]
_RoomId = Annotated[str, msgspec.Meta(pattern="^!")]

_FILTER_ID = re.compile(r"[A-Za-z0-9_-]{16}")


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What any list of events can be filtered by. None: no such restriction."""

    limit: Annotated[int, msgspec.Meta(ge=0)] | None = None
    types: tuple[str, ...] | None = None
    not_types: tuple[str, ...] = ()
    senders: tuple[_UserId, ...] | None = None
    not_senders: tuple[_UserId, ...] = ()


class RoomEventFilter(EventFilter, frozen=True, kw_only=True):
    """What events of rooms can be filtered by."""

    rooms: tuple[_RoomId, ...] | None = None
    not_rooms: tuple[_RoomId, ...] = ()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    related_by_senders: tuple[str, ...] | None = None
    related_by_rel_types: tuple[str, ...] | None = None


class RoomFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What the rooms of a sync are filtered by."""

    rooms: tuple[_RoomId, ...] | None = None
    not_rooms: tuple[_RoomId, ...] = ()
    include_leave: bool = False
    timeline: RoomEventFilter = RoomEventFilter()
    state: RoomEventFilter = RoomEventFilter()
    ephemeral: RoomEventFilter = RoomEventFilter()
    account_data: RoomEventFilter = RoomEventFilter()


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """The filter of a sync."""

    event_fields: tuple[str, ...] | None = None
    event_format: Literal["client", "federation"] = "client"
    presence: EventFilter = EventFilter()
    account_data: EventFilter = EventFilter()
    room: RoomFilter = RoomFilter()


EVERYTHING = Filter()


def parse_filter(body: object) -> Filter:
    """Return a filter given as JSON, or answer M_BAD_JSON."""
    return _convert(body, Filter)


def parse_room_event_filter(text: str) -> RoomEventFilter:
    """Return the filter that a query parameter holds as JSON (/messages, /context)."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadJson("'filter' is not JSON") from None
    return _convert(body, RoomEventFilter)


def _convert(body: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise BadJson(f"The filter is not valid: {error}") from None


class Filters:
    """Stores filters."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, user_id: UserID, body: dict[str, Any]) -> str:
        """Keep a filter and return its id."""
        parse_filter(body)
        encoded = encode_canonical(body)
        if len(encoded) > MAX_FILTER_BYTES:
            raise BadJson(f"A filter has at most {MAX_FILTER_BYTES} bytes")
        filter_id = base64.urlsafe_b64encode(hashlib.sha256(encoded).digest()[:12]).decode()
        if await storage.find_filter(self._db, user_id, filter_id) is None:
            tx = Transaction()
            storage.insert_filter(tx, user_id, filter_id, encoded)
            await self._db.commit(tx)
        return filter_id

    async def get(self, user_id: UserID, filter_id: str) -> bytes:
        """Return a filter as the JSON that was uploaded, or answer M_NOT_FOUND."""
        found = None
        if _FILTER_ID.fullmatch(filter_id) is not None:
            found = await storage.find_filter(self._db, user_id, filter_id)
        if found is None:
            raise NotFound("There is no such filter")
        return found

    async def resolve(self, user_id: UserID, parameter: str | None) -> Filter:
        """Return what the `filter` parameter of /sync means: an id, JSON, or nothing."""
        if parameter is None:
            return EVERYTHING
        if parameter.startswith("{"):
            try:
                body = orjson.loads(parameter)
            except orjson.JSONDecodeError:
                raise BadJson("'filter' is not JSON") from None
            return parse_filter(body)
        return parse_filter(orjson.loads(await self.get(user_id, parameter)))
