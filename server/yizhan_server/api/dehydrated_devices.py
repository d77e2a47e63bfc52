"""Dehydrated devices (MSC3814)."""

from __future__ import annotations

import orjson

from yizhan_server.api.routing import Call, JsonObject, Routes

routes = Routes()

_PATH = "/unstable/org.matrix.msc3814.v1/dehydrated_device"


@routes.put(_PATH, body=dict)
async def put_device(call: Call[JsonObject]) -> JsonObject:
    """Leave a device with the server."""
    return {"device_id": await call.services.dehydration.put(call.requester.user_id, call.body)}


@routes.get(_PATH)
async def get_device(call: Call[None]) -> JsonObject:
    """Show the requester's dehydrated device."""
    return await call.services.dehydration.get(call.requester.user_id)


@routes.delete(_PATH)
async def end_device(call: Call[None]) -> JsonObject:
    """End the requester's dehydrated device."""
    return {"device_id": await call.services.dehydration.end(call.requester.user_id)}


@routes.post(_PATH + "/{device_id}/events", body=dict)
async def list_messages(call: Call[JsonObject]) -> bytes:
    """Give what was sent to the device."""
    return orjson.dumps(
        await call.services.dehydration.messages(
            call.requester.user_id, call.path["device_id"], call.body.get("next_batch")
        )
    )
