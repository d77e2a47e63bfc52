"""Related events and threads.

Spec: client-server API, "Relationships API", "Threading".
"""

from __future__ import annotations

from typing import Any

import orjson

from yizhan_server.api.routing import Call, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.rooms.access import ReadableRoom
from yizhan_server.rooms.relations import RelationsPage

routes = Routes()

DEFAULT_PAGE = 5
MAX_PAGE = 100


@routes.get(
    "/v1/rooms/{room_id}/relations/{event_id}",
    also=(
        "/v1/rooms/{room_id}/relations/{event_id}/{rel_type}",
        "/v1/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}",
    ),
)
async def relations(call: Call[None]) -> bytes:
    """Return the events that relate to one, by relation and type if asked."""
    visible = await call.visible_event()
    page = await call.services.relations.page(
        visible,
        rel_type=call.path.get("rel_type"),
        event_type=call.path.get("event_type"),
        start=call.query("from"),
        stop=call.query("to"),
        limit=_limit(call),
        backwards=call.query_choice("dir", ("b", "f"), "b") == "b",
        recurse=call.query_bool("recurse"),
    )
    return await _answer(call, visible.readable, page)


@routes.get("/v1/rooms/{room_id}/threads")
async def threads(call: Call[None]) -> bytes:
    """Return the roots of the room's threads."""
    readable = await call.readable_room()
    page = await call.services.relations.threads(
        readable,
        participated=call.query_choice("include", ("all", "participated"), "all") != "all",
        start=call.query("from"),
        limit=_limit(call),
    )
    return await _answer(call, readable, page)


def _limit(call: Call[None]) -> int:
    limit = call.query_int("limit", DEFAULT_PAGE, high=MAX_PAGE)
    if limit < 1:
        raise InvalidParam("'limit' must be at least 1")
    return limit


async def _answer(call: Call[None], readable: ReadableRoom, page: RelationsPage) -> bytes:
    rendered = await call.services.renderer.render(call.reader_of(readable), page.events)
    answer: dict[str, Any] = {"chunk": [orjson.Fragment(each) for each in rendered]}
    if page.start is not None:
        answer["prev_batch"] = page.start
    if page.end is not None:
        answer["next_batch"] = page.end
    return orjson.dumps(answer)
