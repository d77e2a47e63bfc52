"""Rooms: creating them, their members, their aliases.

Spec: client-server API, "Creation", "Room aliases", "Room membership", "Listing rooms".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam, MissingParam
from yizhan_server.protocol.identifiers import ServerName, UserID, parse_server_name, parse_user_id
from yizhan_server.rooms.canonical_alias import forget_alias
from yizhan_server.rooms.creation import NewRoom
from yizhan_server.rooms.room import Room

routes = Routes()


class StateEventBody(msgspec.Struct):
    """One event of `initial_state`."""

    type: str
    content: dict[str, Any]
    state_key: str = ""


class AddressInvite(msgspec.Struct):
    """One of `invite_3pid`."""

    id_server: str
    id_access_token: str
    medium: str
    address: str


class CreateRoomBody(msgspec.Struct):
    """POST /createRoom."""

    visibility: str = "private"
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[str] = []
    invite_3pid: list[AddressInvite] = []
    room_version: str | None = None
    creation_content: dict[str, Any] = {}
    initial_state: list[StateEventBody] = []
    preset: str | None = None
    is_direct: bool = False
    power_level_content_override: dict[str, Any] = {}


class UpgradeBody(msgspec.Struct):
    """POST /upgrade."""

    new_version: str
    additional_creators: list[str] = []


class MemberBody(msgspec.Struct):
    """The body of every action on somebody's membership."""

    user_id: str | None = None
    reason: str | None = None


class InviteBody(MemberBody):
    """POST /invite: a user, or somebody of whom only an address is known."""

    id_server: str | None = None
    id_access_token: str | None = None
    medium: str | None = None
    address: str | None = None


class JoinBody(msgspec.Struct):
    """POST /join and /knock."""

    reason: str | None = None
    third_party_signed: dict[str, Any] | None = None


NOT_FOR_MEMBER_EVENT = frozenset(
    ("reason", "third_party_signed", "third_party_invite", "join_authorised_via_users_server")
)
"""Keys of a join's body that do not go into the member event as they are."""


class AliasBody(msgspec.Struct):
    """PUT /directory/room/{alias}."""

    room_id: str


class VisibilityBody(msgspec.Struct):
    """PUT /directory/list/room/{roomId}."""

    visibility: str = "public"


@routes.post("/v3/createRoom", body=CreateRoomBody, limit="joins")
async def create_room(call: Call[CreateRoomBody]) -> JsonObject:
    """Make a room."""
    body = call.body
    if body.visibility not in ("public", "private"):
        raise InvalidParam("'visibility' must be public or private")
    for wanted in body.invite_3pid:
        call.services.identity_servers.access(wanted.id_server)
    public = body.visibility == "public"
    room = await call.services.creation.create(
        call.requester.user_id,
        NewRoom(
            preset=body.preset or ("public_chat" if public else "private_chat"),
            public=public,
            version=body.room_version,
            creation_content=body.creation_content,
            power_levels=body.power_level_content_override,
            initial_state=[(e.type, e.state_key, e.content) for e in body.initial_state],
            name=body.name,
            topic=body.topic,
            alias_localpart=body.room_alias_name,
            invite=[parse_user_id(user) for user in body.invite],
            is_direct=body.is_direct,
            appservice=call.requester.appservice,
        ),
    )
    for wanted in body.invite_3pid:
        await _invite_address(call, room, wanted)
    return {"room_id": room.room_id}


async def _invite_address(call: Call[Any], room: Room, wanted: AddressInvite) -> None:
    await call.services.third_party_invites.invite(
        room,
        call.requester.user_id,
        id_server=call.services.identity_servers.access(wanted.id_server),
        token=wanted.id_access_token,
        medium=wanted.medium,
        address=wanted.address,
    )


@routes.post("/v3/rooms/{room_id}/upgrade", body=UpgradeBody, limit="joins")
async def upgrade(call: Call[UpgradeBody]) -> JsonObject:
    """Replace a room by one of another version."""
    # A room that is unknown is told apart here, as /upgrade is asked to.
    await call.services.rooms.get(call.path["room_id"])
    joined = await call.joined_room()
    new = await call.services.upgrades.upgrade(
        joined, call.body.new_version, call.body.additional_creators
    )
    return {"replacement_room": new}


@routes.post("/v3/join/{room}", body=dict, limit="joins")
async def join_by_id_or_alias(call: Call[JsonObject]) -> JsonObject:
    """Join a room by id or alias."""
    room_id, servers = await _located(call, call.path["room"])
    return await _join(call, room_id, servers)


@routes.post("/v3/rooms/{room_id}/join", body=dict, limit="joins")
async def join_by_id(call: Call[JsonObject]) -> JsonObject:
    """Join a room by id."""
    return await _join(call, call.path["room_id"])


async def _join(
    call: Call[JsonObject], room_id: str, servers: Sequence[ServerName] = ()
) -> JsonObject:
    body = msgspec.convert(call.body, JoinBody)
    # Whatever else there is becomes part of the member event, as clients have come to expect.
    extra = {key: call.body[key] for key in call.body.keys() - NOT_FOR_MEMBER_EVENT}
    if call.requester.is_guest:
        wanted = await call.services.rooms.get(room_id)
        await call.services.guest_access.check_may_join(wanted, call.requester.user_id)
    room = await call.services.members.join(
        call.requester.user_id, room_id, body.reason, extra, [*_via(call), *servers]
    )
    return {"room_id": room.room_id}


@routes.post("/v3/knock/{room}", body=JoinBody, limit="joins")
async def knock(call: Call[JoinBody]) -> JsonObject:
    """Ask to be invited."""
    room_id, servers = await _located(call, call.path["room"])
    room = await call.services.members.knock(
        call.requester.user_id, room_id, call.body.reason, [*_via(call), *servers]
    )
    return {"room_id": room.room_id}


@routes.post("/v3/rooms/{room_id}/invite", body=InviteBody, limit="invites")
async def invite(call: Call[InviteBody]) -> JsonObject:
    """Invite a user, or whoever has an address."""
    body = call.body
    if body.user_id is None and body.medium is not None:
        joined = await call.joined_room()
        id_server = call.services.identity_servers.access(body.id_server)
        if body.address is None or body.id_access_token is None:
            raise MissingParam("'address' and 'id_access_token' are needed")
        wanted = AddressInvite(id_server, body.id_access_token, body.medium, body.address)
        await _invite_address(call, joined.room, wanted)
        return {}
    target = _target(body)
    joined = await call.joined_room()
    await call.services.members.invite(joined.room, joined.user_id, target, reason=call.body.reason)
    return {}


@routes.post("/v3/rooms/{room_id}/leave", body=MemberBody)
async def leave(call: Call[MemberBody]) -> JsonObject:
    """Leave a room or decline an invitation."""
    await call.services.server_notices.check_may_leave(call.requester.user_id, call.path["room_id"])
    await call.services.members.leave(
        call.requester.user_id, call.path["room_id"], call.body.reason
    )
    return {}


@routes.post("/v3/rooms/{room_id}/forget", body=dict)
async def forget(call: Call[JsonObject]) -> JsonObject:
    """Forget a room that was left."""
    await call.services.members.forget(call.requester.user_id, call.path["room_id"])
    return {}


@routes.post("/v3/rooms/{room_id}/kick", body=MemberBody)
async def kick(call: Call[MemberBody]) -> JsonObject:
    """Remove a member."""
    target = _target(call.body)
    joined = await call.joined_room()
    await call.services.members.kick(joined.room, joined.user_id, target, call.body.reason)
    return {}


@routes.post("/v3/rooms/{room_id}/ban", body=MemberBody)
async def ban(call: Call[MemberBody]) -> JsonObject:
    """Ban a user."""
    target = _target(call.body)
    joined = await call.joined_room()
    await call.services.members.ban(joined.room, joined.user_id, target, call.body.reason)
    return {}


@routes.post("/v3/rooms/{room_id}/unban", body=MemberBody)
async def unban(call: Call[MemberBody]) -> JsonObject:
    """Lift a ban."""
    target = _target(call.body)
    joined = await call.joined_room()
    await call.services.members.unban(joined.room, joined.user_id, target, call.body.reason)
    return {}


@routes.get("/v3/joined_rooms")
async def joined_rooms(call: Call[None]) -> JsonObject:
    """List the rooms that the requester is joined to."""
    return {"joined_rooms": await call.services.room_reading.joined_rooms(call.requester.user_id)}


@routes.put("/v3/directory/room/{alias}", body=AliasBody)
async def add_alias(call: Call[AliasBody]) -> JsonObject:
    """Give a room an alias."""
    requester, services = call.requester, call.services
    if requester.appservice is None:
        joined = await services.access.access_joined_room(requester.user_id, call.body.room_id)
        room = joined.room
    else:
        room = await services.rooms.get(call.body.room_id)
    await services.aliases.add(
        call.path["alias"], room, requester.user_id, service=requester.appservice
    )
    return {}


@routes.get("/v3/directory/room/{alias}", auth=Auth.OPTIONAL)
async def resolve_alias(call: Call[None]) -> JsonObject:
    """Find the room of an alias; of another server's only for those who have signed in."""
    target = await call.services.aliases.locate(call.path["alias"], call.ask_another_server)
    return {"room_id": target.room_id, "servers": target.servers}


@routes.delete("/v3/directory/room/{alias}")
async def remove_alias(call: Call[None]) -> JsonObject:
    """Take an alias away, also from among those that the room itself names."""
    requester, alias = call.requester, call.path["alias"]
    room = await call.services.aliases.remove(
        alias, requester.user_id, is_admin=requester.is_admin, service=requester.appservice
    )
    await forget_alias(call.services.writer, room, requester.user_id, alias)
    return {}


@routes.get("/v3/rooms/{room_id}/aliases")
async def aliases_of_room(call: Call[None]) -> JsonObject:
    """List a room's aliases on this server."""
    readable = await call.readable_room()
    return {"aliases": await call.services.aliases.of_room(readable.room)}


@routes.get("/v3/directory/list/room/{room_id}", auth=Auth.NONE)
async def room_visibility(call: Call[None]) -> JsonObject:
    """Tell whether the directory lists a room."""
    room = await call.services.rooms.get(call.path["room_id"])
    published = await call.services.aliases.is_published(room)
    return {"visibility": "public" if published else "private"}


@routes.put("/v3/directory/list/room/{room_id}", body=VisibilityBody)
async def set_room_visibility(call: Call[VisibilityBody]) -> JsonObject:
    """List a room in the directory, or not."""
    if call.body.visibility not in ("public", "private"):
        raise InvalidParam("'visibility' must be public or private")
    room = await call.services.rooms.get(call.path["room_id"])
    await call.services.aliases.set_published(
        room,
        call.requester.user_id,
        published=call.body.visibility == "public",
        is_admin=call.requester.is_admin,
    )
    return {}


async def _located(call: Call[Any], room: str) -> tuple[str, list[ServerName]]:
    """Return the room that is named by ID or alias, with the servers that an alias names."""
    if not room.startswith("#"):
        return room, []
    target = await call.services.aliases.locate(room, call.ask_another_server)
    return target.room_id, target.servers


def _via(call: Call[Any]) -> list[ServerName]:
    """Return the servers that the client says are in the room."""
    named = [*call.query_all("via"), *call.query_all("server_name")]
    return [parse_server_name(name) for name in named]


def _target(body: MemberBody) -> UserID:
    if body.user_id is None:
        raise InvalidParam("'user_id' is missing")
    return parse_user_id(body.user_id)
