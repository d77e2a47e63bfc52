"""What only application services may call, and what clients ask of them: third-party networks.

Spec: application service API, "Client-Server API Extensions"; client-server API, "Third-party
Lookups".
"""

from __future__ import annotations

import msgspec
import orjson

from yizhan_server.api.login import require_appservice
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.identifiers import parse_room_alias, parse_user_id

routes = Routes()


class PingBody(msgspec.Struct):
    """POST /appservice/{id}/ping."""

    transaction_id: str | None = None


class VisibilityBody(msgspec.Struct):
    """PUT /directory/list/appservice."""

    visibility: str


@routes.post(
    "/v1/appservice/{service_id}/ping",
    body=PingBody,
    auth=Auth.APPSERVICE,
    also=("/unstable/fi.mau.msc2659/appservice/{service_id}/ping",),
)
async def ping(call: Call[PingBody]) -> JsonObject:
    """Have this server call the application service, to see whether that works."""
    duration_ms = await call.services.appservice_queries.ping(
        require_appservice(call), call.path["service_id"], call.body.transaction_id
    )
    return {"duration_ms": duration_ms}


@routes.put(
    "/v3/directory/list/appservice/{network_id}/{room_id}",
    body=VisibilityBody,
    auth=Auth.APPSERVICE,
)
async def set_network_visibility(call: Call[VisibilityBody]) -> JsonObject:
    """List a room in the directory of one of the service's networks, or not."""
    if call.body.visibility not in ("public", "private"):
        raise InvalidParam("'visibility' must be public or private")
    return await _set_listed(call, listed=call.body.visibility == "public")


# Not in the specification; bridges call it.
@routes.delete("/v3/directory/list/appservice/{network_id}/{room_id}", auth=Auth.APPSERVICE)
async def remove_from_network(call: Call[None]) -> JsonObject:
    """Take a room out of the directory of one of the service's networks."""
    return await _set_listed(call, listed=False)


async def _set_listed(call: Call[VisibilityBody] | Call[None], *, listed: bool) -> JsonObject:
    room = await call.services.rooms.get(call.path["room_id"])
    await call.services.network_directories.set_listed(
        require_appservice(call), call.path["network_id"], room, listed=listed
    )
    return {}


@routes.get("/v3/thirdparty/protocols")
async def list_protocols(call: Call[None]) -> JsonObject:
    """Describe all third-party networks."""
    return await call.services.third_party.protocols()


@routes.get("/v3/thirdparty/protocol/{protocol}")
async def get_protocol(call: Call[None]) -> JsonObject:
    """Describe one third-party network."""
    return await call.services.third_party.protocol(call.path["protocol"])


@routes.get("/v3/thirdparty/user/{protocol}")
async def find_third_party_users(call: Call[None]) -> bytes:
    """Find the Matrix users of somebody in a third-party network."""
    found = await call.services.third_party.users_of(call.path["protocol"], _fields(call))
    return orjson.dumps(found)


@routes.get("/v3/thirdparty/location/{protocol}")
async def find_third_party_locations(call: Call[None]) -> bytes:
    """Find the rooms of a place in a third-party network."""
    found = await call.services.third_party.locations_of(call.path["protocol"], _fields(call))
    return orjson.dumps(found)


@routes.get("/v3/thirdparty/user")
async def find_user_elsewhere(call: Call[None]) -> bytes:
    """Find what a Matrix user is called in third-party networks."""
    user_id = parse_user_id(call.query_required("userid"))
    return orjson.dumps(await call.services.third_party.of_user(user_id))


@routes.get("/v3/thirdparty/location")
async def find_room_elsewhere(call: Call[None]) -> bytes:
    """Find what a room is called in third-party networks."""
    alias = parse_room_alias(call.query_required("alias"))
    return orjson.dumps(await call.services.third_party.of_alias(alias))


def _fields(call: Call[None]) -> dict[str, str]:
    """Return the fields to search by; never the token of somebody who sends it this way."""
    return {key: value for key, value in call.request.query.items() if key != "access_token"}
