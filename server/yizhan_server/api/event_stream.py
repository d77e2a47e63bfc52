"""GET /events and /initialSync: deprecated, and how a room is followed without joining it.

Spec: client-server API, "Room previews"; the deprecated part of "Syncing".
"""

from __future__ import annotations

from yizhan_server.api.routing import Call, Routes
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.stream_token import parse_sync_token

routes = Routes()

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 120_000
DEFAULT_LIMIT = 10
MAX_LIMIT = 100


@routes.get("/v3/events")
async def get_events(call: Call[None]) -> bytes:
    """Return what happens in the requester's rooms, or in one room that anybody may read."""
    start, room_id = call.query("from"), call.query("room_id")
    peeked = None
    if room_id is None and call.requester.is_guest:
        # A guest follows one room at a time.
        raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "A guest must name a room")
    if room_id is not None:
        peeked = await call.services.access.access_readable_room(call.requester.user_id, room_id)
    return await call.services.event_stream.events(
        call.requester,
        parse_sync_token(start) if start else None,
        timeout_ms=call.query_int("timeout", DEFAULT_TIMEOUT_MS, high=MAX_TIMEOUT_MS),
        limit=call.query_int("limit", DEFAULT_LIMIT, low=1, high=MAX_LIMIT),
        peeked=peeked,
    )


@routes.get("/v3/events/{event_id}")
async def get_event(call: Call[None]) -> bytes:
    """Return one event, whichever room it is in."""
    visible = await call.services.access.access_event_anywhere(
        call.requester.user_id, call.path["event_id"]
    )
    reader = call.reader_of(visible.readable)
    return (await call.services.renderer.render(reader, [visible.event]))[0]


@routes.get("/v3/initialSync")
async def initial_sync(call: Call[None]) -> bytes:
    """Return everything about the requester's rooms."""
    return await call.services.event_stream.initial(
        call.requester,
        limit=call.query_int("limit", DEFAULT_LIMIT, high=MAX_LIMIT),
        archived=call.query_bool("archived"),
    )


@routes.get("/v3/rooms/{room_id}/initialSync")
async def room_initial_sync(call: Call[None]) -> bytes:
    """Return everything about one room."""
    return await call.services.event_stream.room_initial(
        call.requester,
        await call.readable_room(),
        limit=call.query_int("limit", DEFAULT_LIMIT, high=MAX_LIMIT),
    )
