"""Delayed events: what still waits, and restarting, sending or cancelling it (MSC4140).

The id of a delay is a secret that its owner may hand to others, such as a call's media server:
who knows it needs no access token to act on it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam

routes = Routes()

_PATH = "/unstable/org.matrix.msc4140/delayed_events"


class ActionBody(msgspec.Struct):
    """POST /delayed_events/{delay_id}."""

    action: str


@routes.get(_PATH)
async def list_delayed_events(call: Call[None]) -> JsonObject:
    """List what of the requester's waits."""
    return {"delayed_events": await call.services.delayed.of_user(call.requester.user_id)}


@routes.get(_PATH + "/{delay_id}")
async def get_delayed_event(call: Call[None]) -> JsonObject:
    """Show one delayed event of the requester."""
    return await call.services.delayed.of_id(call.requester.user_id, call.path["delay_id"])


@routes.post(_PATH + "/{delay_id}", auth=Auth.OPTIONAL, body=ActionBody, limit="messages")
async def act(call: Call[ActionBody]) -> JsonObject:
    """Restart, send or cancel."""
    return await _act(call, call.body.action)


@routes.post(_PATH + "/{delay_id}/{action}", auth=Auth.OPTIONAL, body=dict, limit="messages")
async def act_by_path(call: Call[JsonObject]) -> JsonObject:
    """Restart, send or cancel, the action being in the path."""
    return await _act(call, call.path["action"])


async def _act(call: Call[Any], action: str) -> JsonObject:
    delayed, delay_id = call.services.delayed, call.path["delay_id"]
    if action == "restart":
        await delayed.restart(delay_id)
    elif action == "send":
        await delayed.send(delay_id)
    elif action == "cancel":
        await delayed.cancel(delay_id)
    else:
        raise InvalidParam("'action' must be restart, send or cancel")
    return {}
