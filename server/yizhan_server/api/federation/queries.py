"""What other servers ask on behalf of their users: profiles, aliases, the room directory.

Spec: server-server API, "Querying for information", "Published Room Directory".
"""

from __future__ import annotations

from yizhan_server.accounts.profiles import check_field_name
from yizhan_server.api.directories import PublicRoomsBody, rooms_wanted
from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Call, JsonObject
from yizhan_server.protocol.errors import Forbidden, NotFound
from yizhan_server.protocol.identifiers import parse_room_alias, parse_user_id, server_name_of
from yizhan_server.search.room_directory import RoomsWanted

routes = make_routes()


@routes.get("/v1/query/profile")
async def query_profile(call: Call[None]) -> JsonObject:
    """Show the profile of a user of this server, or one field of it."""
    user_id = parse_user_id(call.query_required("user_id"))
    field = call.query("field")
    accounts = call.services.accounts
    if not accounts.is_local(user_id) or await accounts.find_active(user_id) is None:
        raise NotFound("There is no such user here")
    profile = await call.services.profiles.find(user_id)
    if field is None:
        return profile
    if check_field_name(field) not in profile:
        raise NotFound("The profile has no such field")
    return {field: profile[field]}


@routes.get("/v1/query/directory")
async def query_directory(call: Call[None]) -> JsonObject:
    """Tell which room an alias of this server names, and who can let one in."""
    alias = parse_room_alias(call.query_required("room_alias"))
    if server_name_of(alias) != call.services.server_name:
        raise NotFound("This is an alias of another server")
    target = await call.services.aliases.locate(alias, call.ask_another_server)
    return {"room_id": target.room_id, "servers": target.servers}


@routes.get("/v1/publicRooms")
async def list_public_rooms(call: Call[None]) -> JsonObject:
    """List the published rooms."""
    _check_may_see_directory(call)
    limit = call.query_int("limit", 0)
    return await call.services.room_directory.page(
        RoomsWanted(since=call.query("since"), limit=limit or None)
    )


@routes.post("/v1/publicRooms", body=PublicRoomsBody)
async def search_public_rooms(call: Call[PublicRoomsBody]) -> JsonObject:
    """List the published rooms that match."""
    _check_may_see_directory(call)
    return await call.services.room_directory.page(rooms_wanted(call.body))


def _check_may_see_directory(call: Call[None] | Call[PublicRoomsBody]) -> None:
    # Where every server is let in, asking as one is no more than not having signed in.
    services = call.services
    if not services.room_directory.is_open and not services.peers.is_listed(call.origin):
        raise Forbidden("The room directory is not open to your server")
