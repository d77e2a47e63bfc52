"""Account data, tags and filters.

Spec: client-server API, "Client Config", "Room Tagging", "Filtering".
"""

from __future__ import annotations

from typing import Any

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.protocol.errors import Forbidden
from yizhan_server.protocol.identifiers import RoomID, UserID, parse_room_id

routes = Routes()


@routes.get("/v3/user/{user_id}/account_data/{type}")
async def get_account_data(call: Call[None]) -> bytes | JsonObject:
    """Show one type of account data."""
    user_id, kind = _own(call), call.path["type"]
    if kind == "m.push_rules":
        return {"global": await call.services.push_rules.get(user_id)}
    return await call.services.account_data.get(user_id, kind)


@routes.put("/v3/user/{user_id}/account_data/{type}", body=dict)
async def set_account_data(call: Call[dict[str, Any]]) -> JsonObject:
    """Set one type of account data."""
    await call.services.account_data.set(_own(call), call.path["type"], call.body)
    return {}


@routes.get("/v3/user/{user_id}/rooms/{room_id}/account_data/{type}")
async def get_room_account_data(call: Call[None]) -> bytes:
    """Show one type of a room's account data."""
    return await call.services.account_data.get(_own(call), call.path["type"], _room(call))


@routes.put("/v3/user/{user_id}/rooms/{room_id}/account_data/{type}", body=dict)
async def set_room_account_data(call: Call[dict[str, Any]]) -> JsonObject:
    """Set one type of a room's account data."""
    await call.services.account_data.set(_own(call), call.path["type"], call.body, _room(call))
    return {}


@routes.get("/v3/user/{user_id}/rooms/{room_id}/tags")
async def list_tags(call: Call[None]) -> JsonObject:
    """List the tags of a room."""
    return {"tags": await call.services.account_data.get_tags(_own(call), _room(call))}


@routes.put("/v3/user/{user_id}/rooms/{room_id}/tags/{tag}", body=dict)
async def set_tag(call: Call[dict[str, Any]]) -> JsonObject:
    """Tag a room."""
    await call.services.account_data.set_tag(_own(call), _room(call), call.path["tag"], call.body)
    return {}


@routes.delete("/v3/user/{user_id}/rooms/{room_id}/tags/{tag}")
async def remove_tag(call: Call[None]) -> JsonObject:
    """Remove a tag from a room."""
    await call.services.account_data.remove_tag(_own(call), _room(call), call.path["tag"])
    return {}


@routes.post("/v3/user/{user_id}/filter", body=dict)
async def add_filter(call: Call[dict[str, Any]]) -> JsonObject:
    """Keep a filter."""
    return {"filter_id": await call.services.filters.add(_own(call), call.body)}


@routes.get("/v3/user/{user_id}/filter/{filter_id}")
async def get_filter(call: Call[None]) -> bytes:
    """Show a filter."""
    return await call.services.filters.get(_own(call), call.path["filter_id"])


def _own(call: Call[Any]) -> UserID:
    if call.path["user_id"] != call.requester.user_id:
        raise Forbidden("These are somebody else's settings")
    return call.requester.user_id


def _room(call: Call[Any]) -> RoomID:
    return parse_room_id(call.path["room_id"])
