"""Searching messages.

Spec: client-server API, "Server Side Search".
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.search.messages import TYPES, Around, Criteria
from yizhan_server.sync.filters import parse_event_filter

routes = Routes()

DEFAULT_PAGE = 10
MAX_PAGE = 100
MAX_AROUND = 50
GROUPS = ("room_id", "sender")


class ContextBody(msgspec.Struct):
    """`event_context`."""

    before_limit: int = 5
    after_limit: int = 5
    include_profile: bool = False


class GroupBody(msgspec.Struct):
    """One of `groupings.group_by`."""

    key: str = ""


class GroupingsBody(msgspec.Struct):
    """`groupings`."""

    group_by: list[GroupBody] = []


class RoomEventsBody(msgspec.Struct):
    """`search_categories.room_events`."""

    search_term: str
    keys: list[str] | None = None
    filter: dict[str, Any] = {}
    order_by: str = "rank"
    event_context: ContextBody | None = None
    include_state: bool = False
    groupings: GroupingsBody | None = None


class CategoriesBody(msgspec.Struct):
    """`search_categories`."""

    room_events: RoomEventsBody | None = None


class SearchBody(msgspec.Struct):
    """POST /search."""

    search_categories: CategoriesBody


@routes.post("/v3/search", body=SearchBody, limit="messages")
async def search(call: Call[SearchBody]) -> JsonObject:
    """Search the rooms of the requester that are not encrypted."""
    wish = call.body.search_categories.room_events
    if wish is None:
        return {"search_categories": {}}
    found = await call.services.message_search.search(
        call.requester, _criteria(wish), call.query("next_batch")
    )
    return {"search_categories": {"room_events": found}}


def _criteria(wish: RoomEventsBody) -> Criteria:
    keys = set(TYPES) if wish.keys is None else set(wish.keys)
    if not keys <= set(TYPES):
        raise InvalidParam(f"'keys' must be among {', '.join(TYPES)}")
    if wish.order_by not in ("rank", "recent"):
        raise InvalidParam("'order_by' must be rank or recent")
    groups = [group.key for group in wish.groupings.group_by] if wish.groupings else []
    if not set(groups) <= set(GROUPS):
        raise InvalidParam(f"'group_by' must be among {', '.join(GROUPS)}")
    wanted = parse_event_filter(wish.filter)
    limit = DEFAULT_PAGE if wanted.limit is None else wanted.limit
    around = wish.event_context
    return Criteria(
        term=wish.search_term,
        keys=keys,
        wanted=wanted,
        limit=min(max(limit, 1), MAX_PAGE),
        by_rank=wish.order_by == "rank",
        around=None
        if around is None
        else Around(
            min(max(around.before_limit, 0), MAX_AROUND),
            min(max(around.after_limit, 0), MAX_AROUND),
            around.include_profile,
        ),
        include_state=wish.include_state,
        groups=groups,
    )
