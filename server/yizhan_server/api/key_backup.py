"""Server-side key backups.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.e2ee.key_backup import check_rooms, check_sessions

routes = Routes()

MAX_BODY = 25 << 20
"""Bytes. A first backup brings tens of thousands of keys, 100 to some thousands per call."""


@routes.post("/v3/room_keys/version", body=dict)
async def create_backup(call: Call[JsonObject]) -> JsonObject:
    """Begin a new backup."""
    return {"version": await call.services.key_backups.create(call.requester.user_id, call.body)}


@routes.get("/v3/room_keys/version")
async def describe_current_backup(call: Call[None]) -> JsonObject:
    """Describe the current backup."""
    return await call.services.key_backups.describe(call.requester.user_id, None)


@routes.get("/v3/room_keys/version/{version}")
async def describe_backup(call: Call[None]) -> JsonObject:
    """Describe a backup."""
    return await call.services.key_backups.describe(call.requester.user_id, call.path["version"])


@routes.put("/v3/room_keys/version/{version}", body=dict)
async def update_backup(call: Call[JsonObject]) -> JsonObject:
    """Replace a backup's auth_data."""
    await call.services.key_backups.update(call.requester.user_id, call.path["version"], call.body)
    return {}


@routes.delete("/v3/room_keys/version/{version}")
async def delete_backup(call: Call[None]) -> JsonObject:
    """Delete a backup with all its keys."""
    await call.services.key_backups.delete(call.requester.user_id, call.path["version"])
    return {}


@routes.put("/v3/room_keys/keys", body=dict, max_body=MAX_BODY)
async def put_keys(call: Call[JsonObject]) -> JsonObject:
    """Store keys of several rooms."""
    return await call.services.key_backups.put(
        call.requester.user_id, call.query_required("version"), check_rooms(call.body)
    )


@routes.put("/v3/room_keys/keys/{room_id}", body=dict, max_body=MAX_BODY)
async def put_room_keys(call: Call[JsonObject]) -> JsonObject:
    """Store keys of one room."""
    return await call.services.key_backups.put(
        call.requester.user_id,
        call.query_required("version"),
        {call.path["room_id"]: check_sessions(call.body)},
    )


@routes.put("/v3/room_keys/keys/{room_id}/{session_id}", body=dict)
async def put_session_key(call: Call[JsonObject]) -> JsonObject:
    """Store the key of one session."""
    return await call.services.key_backups.put(
        call.requester.user_id,
        call.query_required("version"),
        {call.path["room_id"]: {call.path["session_id"]: call.body}},
    )


@routes.get("/v3/room_keys/keys")
async def get_keys(call: Call[None]) -> JsonObject:
    """Return all keys of a backup."""
    return await call.services.key_backups.get_all(
        call.requester.user_id, call.query_required("version")
    )


@routes.get("/v3/room_keys/keys/{room_id}")
async def get_room_keys(call: Call[None]) -> JsonObject:
    """Return the keys of one room."""
    return await call.services.key_backups.get_room(
        call.requester.user_id, call.query_required("version"), call.path["room_id"]
    )


@routes.get("/v3/room_keys/keys/{room_id}/{session_id}")
async def get_session_key(call: Call[None]) -> JsonObject:
    """Return the key of one session."""
    return await call.services.key_backups.get_session(
        call.requester.user_id,
        call.query_required("version"),
        call.path["room_id"],
        call.path["session_id"],
    )


@routes.delete("/v3/room_keys/keys")
async def delete_keys(call: Call[None]) -> JsonObject:
    """Delete all keys of a backup."""
    return await call.services.key_backups.delete_keys(
        call.requester.user_id, call.query_required("version")
    )


@routes.delete("/v3/room_keys/keys/{room_id}")
async def delete_room_keys(call: Call[None]) -> JsonObject:
    """Delete the keys of one room."""
    return await call.services.key_backups.delete_keys(
        call.requester.user_id, call.query_required("version"), call.path["room_id"]
    )


@routes.delete("/v3/room_keys/keys/{room_id}/{session_id}")
async def delete_session_key(call: Call[None]) -> JsonObject:
    """Delete the key of one session."""
    return await call.services.key_backups.delete_keys(
        call.requester.user_id,
        call.query_required("version"),
        call.path["room_id"],
        call.path["session_id"],
    )
