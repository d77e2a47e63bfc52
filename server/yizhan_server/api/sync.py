"""GET /sync, and POST /sync: simplified sliding sync.

Spec: client-server API, "Syncing"; MSC4186.
"""

from __future__ import annotations

import orjson

from yizhan_server.api.routing import Call, Routes
from yizhan_server.ephemeral.presence import STATES
from yizhan_server.protocol.errors import InvalidParam, UnknownPos
from yizhan_server.protocol.stream_token import (
    SlidingToken,
    parse_sliding_token,
    parse_sync_token,
)
from yizhan_server.sync.filters import SyncFilter, parse_sync_filter
from yizhan_server.sync.rooms import StateSection
from yizhan_server.sync.sliding.request import SlidingBody, make_request
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
            state_section=_state_section(call),
            set_presence=call.query_choice("set_presence", STATES, "online") or "online",
        )
    )


@routes.post("/v4/sync", body=SlidingBody, also=("/unstable/org.matrix.simplified_msc3575/sync",))
async def sliding_sync(call: Call[SlidingBody]) -> bytes:
    """Return what is new in the rooms that the client looks at, waiting for it if asked."""
    body = call.body
    presence = call.query("set_presence") or body.set_presence or "online"
    if presence not in STATES:
        raise InvalidParam(f"'set_presence' must be one of {', '.join(STATES)}")
    return await call.services.sliding_sync.answer(
        make_request(
            call.requester,
            body,
            token=_sliding_token(call.query("pos") or body.pos),
            timeout_ms=min(call.query_int("timeout", body.timeout or 0), MAX_TIMEOUT_MS),
            set_presence=presence,
        )
    )


def _state_section(call: Call[None]) -> StateSection:
    """Return where the client looks for a room's state; it knows `state_after` by one name only."""
    if call.query_bool("use_state_after"):
        return "state_after"
    if call.query_bool("org.matrix.msc4222.use_state_after"):
        return "org.matrix.msc4222.state_after"
    return "state"


def _sliding_token(pos: str | None) -> SlidingToken | None:
    try:
        return parse_sliding_token(pos) if pos else None
    except InvalidParam:
        raise UnknownPos from None


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
