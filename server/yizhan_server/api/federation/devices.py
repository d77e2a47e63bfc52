"""The devices of this server's users and their keys.

Spec: server-server API, "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Call, JsonObject
from yizhan_server.e2ee.input import check_object
from yizhan_server.protocol.identifiers import parse_user_id

routes = make_routes()


@routes.get("/v1/user/devices/{user_id}")
async def list_devices(call: Call[None]) -> JsonObject:
    """List a user's devices, with the number of the last change to them."""
    return await call.services.peer_key_queries.devices(parse_user_id(call.path["user_id"]))


@routes.post("/v1/user/keys/query", body=dict)
async def query_keys(call: Call[JsonObject]) -> JsonObject:
    """Look up the identity keys of devices."""
    wanted = check_object(call.body.get("device_keys"), "'device_keys'")
    return await call.services.peer_key_queries.query(wanted)


@routes.post("/v1/user/keys/claim", body=dict)
async def claim_keys(call: Call[JsonObject]) -> JsonObject:
    """Take one-time keys of devices."""
    wanted = check_object(call.body.get("one_time_keys"), "'one_time_keys'")
    return await call.services.peer_key_queries.claim(wanted)
