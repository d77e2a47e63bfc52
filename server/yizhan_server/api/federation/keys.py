"""The keys of this server, and of others as a notary. Asked without a signature.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

import msgspec

from yizhan_server.api.routing import PEER_ADDRESS_LIMIT, Auth, Call, JsonObject, Routes
from yizhan_server.federation_client.notary import Criteria
from yizhan_server.protocol.identifiers import parse_server_name

routes = Routes("/_matrix/key", auth=Auth.NONE)


class OfKey(msgspec.Struct):
    """What is wanted of one key."""

    minimum_valid_until_ts: int | None = None


class KeyQuery(msgspec.Struct):
    """POST /v2/query: by server and key ID."""

    server_keys: dict[str, dict[str, OfKey]]


@routes.get("/v2/server", limit=PEER_ADDRESS_LIMIT, also=("/v2/server/{key_id}",))
async def publish_keys(call: Call[None]) -> JsonObject:
    """Publish the keys of this server; the path with a key ID is what older servers ask for."""
    return call.services.notary.publish()


@routes.get(
    "/v2/query/{server_name}", limit=PEER_ADDRESS_LIMIT, also=("/v2/query/{server_name}/{key_id}",)
)
async def query_keys_of_one(call: Call[None]) -> JsonObject:
    """Tell the keys of one server; older servers name one of them."""
    server = parse_server_name(call.path["server_name"])
    minimum = call.query("minimum_valid_until_ts")
    until_ms = None if minimum is None else call.query_int("minimum_valid_until_ts", 0)
    key_ids = frozenset([call.path["key_id"]] if "key_id" in call.path else ())
    found = await call.services.notary.find({server: Criteria(key_ids, until_ms)})
    return {"server_keys": found}


@routes.post("/v2/query", body=KeyQuery, limit=PEER_ADDRESS_LIMIT)
async def query_keys(call: Call[KeyQuery]) -> JsonObject:
    """Tell the keys of several servers."""
    wanted = {}
    for name, keys in call.body.server_keys.items():
        times = [
            criteria.minimum_valid_until_ts
            for criteria in keys.values()
            if criteria.minimum_valid_until_ts is not None
        ]
        wanted[parse_server_name(name)] = Criteria(frozenset(keys), max(times, default=None))
    return {"server_keys": await call.services.notary.find(wanted)}
