"""The user directory and the public room directory.

Spec: client-server API, "User Directory", "Listing rooms".
"""

from __future__ import annotations

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam, MissingToken
from yizhan_server.protocol.identifiers import parse_server_name
from yizhan_server.search.room_directory import RoomsWanted

routes = Routes()

MAX_PEOPLE = 50


class UserSearchBody(msgspec.Struct):
    """POST /user_directory/search."""

    search_term: str
    limit: int = 10


class RoomFilterBody(msgspec.Struct):
    """`filter` of POST /publicRooms."""

    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class PublicRoomsBody(msgspec.Struct):
    """POST /publicRooms."""

    limit: int | None = None
    since: str | None = None
    filter: RoomFilterBody | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


@routes.post("/v3/user_directory/search", body=UserSearchBody)
async def search_users(call: Call[UserSearchBody]) -> JsonObject:
    """Find people by name or id."""
    limit = min(max(call.body.limit, 1), MAX_PEOPLE)
    results, limited = await call.services.user_directory.search(
        call.requester.user_id, call.body.search_term, limit
    )
    return {"results": results, "limited": limited}


@routes.get("/v3/publicRooms", auth=Auth.OPTIONAL)
async def list_public_rooms(call: Call[None]) -> JsonObject:
    """List the published rooms."""
    if call.maybe_requester is None and not call.services.room_directory.is_open:
        raise MissingToken
    limit = call.query_int("limit", -1)
    wanted = RoomsWanted(since=call.query("since"), limit=_limit(None if limit < 0 else limit))
    return await _page(call, wanted)


@routes.post("/v3/publicRooms", body=PublicRoomsBody)
async def search_public_rooms(call: Call[PublicRoomsBody]) -> JsonObject:
    """List the published rooms that match."""
    return await _page(call, rooms_wanted(call.body), call.body.third_party_instance_id)


def rooms_wanted(body: PublicRoomsBody) -> RoomsWanted:
    """Return what is asked for, or answer M_INVALID_PARAM."""
    wanted = body.filter or RoomFilterBody()
    return RoomsWanted(
        term=wanted.generic_search_term,
        room_types=None if wanted.room_types is None else tuple(wanted.room_types),
        since=body.since,
        limit=_limit(body.limit),
        network=_network(body.third_party_instance_id),
        all_networks=body.include_all_networks,
    )


def _network(instance_id: str | None) -> tuple[str, str] | None:
    """Return (application service, network) of an instance that /thirdparty/protocols named."""
    if instance_id is None:
        return None
    service, bar, network = instance_id.partition("|")
    if not bar:
        raise InvalidParam("'third_party_instance_id' names no network of this server")
    return service, network


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < 0:
        raise InvalidParam("'limit' must not be negative")
    return limit or None


async def _page(
    call: Call[None] | Call[PublicRoomsBody], wanted: RoomsWanted, network: str | None = None
) -> JsonObject:
    """Return a page of this server's list, or of that of the server that `server` names."""
    server = call.query("server")
    if server is None or server == call.services.server_name:
        return await call.services.room_directory.page(wanted)
    name = parse_server_name(server)
    call.ask_another_server()
    return await call.services.remote_directories.page(name, wanted, network)
