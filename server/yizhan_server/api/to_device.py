"""Send-to-device messages.

Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.e2ee.input import check_object

routes = Routes()

MAX_BODY = 8 << 20
"""Bytes. The keys of a large room go to a few hundred devices in one call."""


@routes.put("/v3/sendToDevice/{type}/{txn_id}", body=dict, max_body=MAX_BODY)
async def send_to_device(call: Call[JsonObject]) -> JsonObject:
    """Send a message to each of a set of devices."""
    messages = check_object(call.body.get("messages"), "'messages'")
    requester = call.requester
    await call.services.to_device.send(
        requester.user_id, requester.device_id, call.path["type"], call.path["txn_id"], messages
    )
    return {}
