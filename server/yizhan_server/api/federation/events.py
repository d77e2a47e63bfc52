"""Events, auth chains and states of rooms that the asking server shares with this one.

Spec: server-server API, "Retrieving event authorization information", "Backfilling and retrieving
missing events", "Retrieving events".
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Call, JsonObject
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.event import Pdu
from yizhan_server.rooms.server_access import RoomOfServer

routes = make_routes()


class MissingEventsBody(msgspec.Struct):
    """POST /get_missing_events."""

    earliest_events: list[str] = []
    latest_events: list[str] = []
    limit: int = 10
    min_depth: int = 0


@routes.get("/v1/event/{event_id}")
async def get_event(call: Call[None]) -> JsonObject:
    """Give one event."""
    event = await call.services.server_access.access_event(call.origin, call.path["event_id"])
    return _transaction(call, [event])


@routes.get("/v1/event_auth/{room_id}/{event_id}")
async def get_event_auth(call: Call[None]) -> JsonObject:
    """Give the auth chain of an event."""
    of = await _past_room(call)
    chain = await call.services.serving_events.auth_chain(of, call.path["event_id"])
    return {"auth_chain": _raw(chain)}


@routes.get("/v1/state/{room_id}")
async def get_state(call: Call[None]) -> JsonObject:
    """Give the state before an event, with its auth chain."""
    event_id = call.query_required("event_id")
    of, serving = await _past_room(call), call.services.serving_events
    before = await serving.state_before(of, event_id)
    return {
        "pdus": _raw(await serving.pdus(of.room, before.state)),
        "auth_chain": _raw(await serving.pdus(of.room, before.auth_chain)),
    }


@routes.get("/v1/state_ids/{room_id}")
async def get_state_ids(call: Call[None]) -> JsonObject:
    """Give the same by event IDs."""
    event_id = call.query_required("event_id")
    of, serving = await _past_room(call), call.services.serving_events
    before = await serving.state_before(of, event_id)
    return {
        "pdu_ids": await serving.event_ids(before.state),
        "auth_chain_ids": await serving.event_ids(before.auth_chain),
    }


@routes.get("/v1/backfill/{room_id}")
async def backfill(call: Call[None]) -> JsonObject:
    """Give events and those before them."""
    of = await _past_room(call)
    limit = call.query_int("limit", 10)
    found = await call.services.serving_events.backfill(of, call.query_all("v"), limit)
    return _transaction(call, found)


@routes.post("/v1/get_missing_events/{room_id}", body=MissingEventsBody)
async def get_missing_events(call: Call[MissingEventsBody]) -> JsonObject:
    """Give the events between some that the server has and some that it has just received."""
    of, body = await _past_room(call), call.body
    found = await call.services.serving_events.missing(
        of, body.earliest_events, body.latest_events, body.limit, body.min_depth
    )
    return {"events": _raw(found)}


@routes.get("/v1/timestamp_to_event/{room_id}")
async def get_event_by_time(call: Call[None]) -> JsonObject:
    """Find the event closest to a time."""
    call.query_required("ts")
    direction = call.query_choice("dir", ("b", "f"), None)
    if direction is None:
        raise InvalidParam("'dir' must be b or f")
    of = await call.services.server_access.access_shared_room(call.origin, call.path["room_id"])
    event = await call.services.serving_events.event_by_time(
        of, call.query_int("ts", 0), backwards=direction == "b"
    )
    return {"event_id": event.event_id, "origin_server_ts": event.ts_ms}


async def _past_room(call: Call[Any]) -> RoomOfServer:
    return await call.services.server_access.access_past_room(call.origin, call.path["room_id"])


def _transaction(call: Call[Any], events: list[Pdu]) -> JsonObject:
    return {
        "origin": call.services.server_name,
        "origin_server_ts": round(time.time() * 1000),
        "pdus": _raw(events),
    }


def _raw(events: list[Pdu]) -> list[JsonObject]:
    return [event.raw for event in events]
