"""Rooms seen from outside: the tree of a space, and the summary of a room.

Spec: client-server API, "Spaces", "Room previews" (GET /room_summary).
"""

from __future__ import annotations

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.rooms.hierarchy import Walk

routes = Routes()

MAX_PAGE = 100
DEFAULT_PAGE = 50
MAX_DEPTH = 20


@routes.get(
    "/v1/rooms/{room_id}/hierarchy",
    also=("/unstable/org.matrix.msc2946/rooms/{room_id}/hierarchy",),
)
async def get_hierarchy(call: Call[None]) -> JsonObject:
    """List the rooms of a space, depth first."""
    return await call.services.hierarchy.page(
        call.requester.user_id,
        call.path["room_id"],
        Walk(
            limit=call.query_int("limit", DEFAULT_PAGE, low=1, high=MAX_PAGE),
            max_depth=call.query_int("max_depth", MAX_DEPTH, high=MAX_DEPTH),
            suggested_only=call.query_bool("suggested_only"),
            start=call.query("from"),
        ),
        call.ask_another_server,
    )


@routes.get("/v1/room_summary/{room}", auth=Auth.OPTIONAL)
async def get_summary(call: Call[None]) -> JsonObject:
    """Summarise a room."""
    room, via = call.path["room"], call.query_all("via")
    if room.startswith("#"):
        target = await call.services.aliases.locate(room, call.ask_another_server)
        room, via = target.room_id, [*via, *target.servers]
    elif not room.startswith("!"):
        raise InvalidParam("This is neither the id nor an alias of a room")
    requester = call.maybe_requester
    return await call.services.summaries.of_room(
        room, None if requester is None else requester.user_id, via, call.ask_another_server
    )


@routes.get(
    "/unstable/im.nheko.summary/summary/{room}",
    auth=Auth.OPTIONAL,
    also=("/unstable/im.nheko.summary/rooms/{room}/summary",),
)
async def get_unstable_summary(call: Call[None]) -> JsonObject:
    """Summarise a room, under the names that MSC3266 had before it was accepted."""
    summary = await get_summary(call)
    renamed = {"room_version": ("room_version", "version"), "encryption": ("encryption",)}
    return summary | {
        f"im.nheko.summary.{name}": summary[key]
        for key, names in renamed.items()
        if key in summary
        for name in names
    }
