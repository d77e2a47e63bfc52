"""GET /sync.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

import orjson

from yizhan_server.api.routing import Call, Routes
from yizhan_server.ephemeral.presence import STATES
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.stream_token import parse_sync_token
from yizhan_server.sync.filters import SyncFilter, parse_sync_filter
from yizhan_server.sync.sync import SyncRequest

routes = Routes()

MAX_TIMEOUT_MS = 120_000


@routes.get("/v3/sync")
async def sync(call: Call[None]) -> bytes:
    """Return what changed since a token, waiting for it if asked."""
    since = call.query("since")
    return await call.services.sync.answer(
        SyncRequest(
            requester=call.requester,
            since=None if not since else parse_sync_token(since),
            wanted=await _filter(call),
            timeout_ms=call.query_int("timeout", 0, high=MAX_TIMEOUT_MS),
            full_state=call.query_bool("full_state"),
            use_state_after=call.query_bool("use_state_after")
            or call.query_bool("org.matrix.msc4222.use_state_after"),
            set_presence=call.query_choice("set_presence", STATES, "online") or "online",
        )
    )


async def _filter(call: Call[None]) -> SyncFilter:
    """Return the filter given by id or written out."""
    given = call.query("filter")
    if not given:
        return SyncFilter()
    if not given.startswith("{"):
        stored = await call.services.filters.get(call.requester.user_id, given)
        return parse_sync_filter(orjson.loads(stored))
    try:
        return parse_sync_filter(orjson.loads(given))
    except orjson.JSONDecodeError:
        raise InvalidParam("'filter' must be a filter id or a JSON object") from None
