"""What a client asks for: the body of the request, in the forms that clients use.

Two forms are read alike. The unstable endpoint has `required_state` as pairs with `$ME`, `$LAZY`
and `*`, and `ranges`; the MSC as accepted has objects, and one `range`. Unknown keys, and so
unknown extensions, are ignored.

Spec: MSC4186, "Request Body".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from yizhan_server.accounts.requester import Requester
from yizhan_server.protocol.canonical_json import MAX_INTEGER
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.stream_token import SlidingToken
from yizhan_server.sync.filters import MAX_TIMELINE_LIMIT
from yizhan_server.sync.sliding.required_state import (
    ANY,
    MEMBER,
    RequiredState,
    make_required_state,
)

MAX_LISTS = 100
MAX_SUBSCRIPTIONS = 100
MAX_REQUIRED_STATE = 200
"""Entries of one room config."""
MAX_RANGES = 20
MAX_NAME = 255
"""Characters of a list's or a connection's name."""
MAX_TO_DEVICE = 100

ME = "$ME"
LAZY = "$LAZY"

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]


class StateElement(msgspec.Struct):
    """Names state events; what is absent may be any."""

    type: str = ANY
    state_key: str = ANY


class RequiredStateBody(msgspec.Struct):
    """Which state is wanted, in the MSC's form."""

    include: list[StateElement] = []
    exclude: list[StateElement] = []
    lazy_members: bool = False


class FiltersBody(msgspec.Struct):
    """Which rooms a list holds; absent keys do not filter."""

    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    is_invited: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    room_name_like: str | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


class SubscriptionBody(msgspec.Struct):
    """What is wanted of a room."""

    timeline_limit: _Count
    required_state: list[tuple[str, str]] | RequiredStateBody


class ListBody(SubscriptionBody):
    """A list, and what is wanted of its rooms."""

    ranges: list[tuple[_Count, _Count]] | None = None
    range: tuple[_Count, _Count] | None = None
    slow_get_all_rooms: bool | None = None
    filters: FiltersBody | None = None


class ExtensionBody(msgspec.Struct):
    """An extension without rooms."""

    enabled: bool | None = None


class ToDeviceBody(ExtensionBody):
    """MSC3885."""

    since: str | None = None
    limit: _Count | None = None


class RoomExtensionBody(ExtensionBody):
    """An extension that gives something for rooms; by default for all that the answer covers."""

    lists: list[str] | None = None
    rooms: list[str] | None = None


class ExtensionsBody(msgspec.Struct):
    """The extensions that this server knows."""

    to_device: ToDeviceBody | None = None
    e2ee: ExtensionBody | None = None
    account_data: RoomExtensionBody | None = None
    receipts: RoomExtensionBody | None = None
    typing: RoomExtensionBody | None = None


class SlidingBody(msgspec.Struct):
    """The whole body."""

    conn_id: str | None = None
    pos: str | None = None
    timeout: _Count | None = None
    set_presence: str | None = None
    lists: dict[str, ListBody] | None = None
    room_subscriptions: dict[str, SubscriptionBody] | None = None
    extensions: ExtensionsBody | None = None


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """What is wanted of a room."""

    limit: int
    required: RequiredState

    def __or__(self, other: RoomConfig) -> RoomConfig:
        return RoomConfig(max(self.limit, other.limit), self.required | other.required)


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A list: which rooms, which part of them, and what is wanted of these."""

    filters: FiltersBody | None
    ranges: list[tuple[int, int]] | None
    """First and last index of each part; None: all."""
    config: RoomConfig


@dataclass(frozen=True, slots=True)
class SlidingRequest:
    """What a client asks for, checked."""

    requester: Requester
    conn_id: str
    token: SlidingToken | None
    timeout_ms: int
    set_presence: str
    lists: dict[str, ListRequest]
    subscriptions: dict[str, RoomConfig]
    extensions: ExtensionsBody

    @property
    def user_id(self) -> UserID:
        """Who asks."""
        return self.requester.user_id


def make_request(
    requester: Requester,
    body: SlidingBody,
    *,
    token: SlidingToken | None,
    timeout_ms: int,
    set_presence: str,
) -> SlidingRequest:
    """Check the body's bounds. Raises InvalidParam."""
    lists, subscriptions = body.lists or {}, body.room_subscriptions or {}
    if len(lists) > MAX_LISTS:
        raise InvalidParam(f"There are more than {MAX_LISTS} lists")
    if len(subscriptions) > MAX_SUBSCRIPTIONS:
        raise InvalidParam(f"There are more than {MAX_SUBSCRIPTIONS} room subscriptions")
    conn_id = body.conn_id or ""
    if any(len(name) > MAX_NAME for name in (conn_id, *lists)):
        raise InvalidParam(f"A name is longer than {MAX_NAME} characters")
    user_id = requester.user_id
    return SlidingRequest(
        requester=requester,
        conn_id=conn_id,
        token=token,
        timeout_ms=timeout_ms,
        set_presence=set_presence,
        lists={
            name: ListRequest(each.filters, _ranges(each), _config(each, user_id))
            for name, each in lists.items()
        },
        subscriptions={room: _config(each, user_id) for room, each in subscriptions.items()},
        extensions=body.extensions or ExtensionsBody(),
    )


def _ranges(body: ListBody) -> list[tuple[int, int]] | None:
    if body.slow_get_all_rooms:
        return None
    ranges = body.ranges
    if ranges is None:
        return None if body.range is None else [body.range]
    if len(ranges) > MAX_RANGES:
        raise InvalidParam(f"A list has more than {MAX_RANGES} ranges")
    return ranges


def _config(body: SubscriptionBody, user_id: UserID) -> RoomConfig:
    wanted = body.required_state
    limit = min(body.timeline_limit, MAX_TIMELINE_LIMIT)
    if isinstance(wanted, RequiredStateBody):
        include = [(each.type, each.state_key) for each in wanted.include]
        exclude = [(each.type, each.state_key) for each in wanted.exclude]
        lazy = wanted.lazy_members
    else:
        lazy = (MEMBER, LAZY) in wanted
        include = [
            (kind, user_id if key == ME else key) for kind, key in wanted if key != LAZY
        ]  # fmt: skip
        exclude = []
    if len(include) + len(exclude) > MAX_REQUIRED_STATE:
        raise InvalidParam(f"'required_state' has more than {MAX_REQUIRED_STATE} entries")
    return RoomConfig(limit, make_required_state(include, exclude, lazy_members=lazy))
