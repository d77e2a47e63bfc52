"""Joining, inviting, knocking and leaving, asked for by the server of the one who does it.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Inviting to a room", "Leaving
Rooms (Rejecting Invites)".
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Call, JsonObject
from yizhan_server.protocol.errors import BadJson
from yizhan_server.protocol.identifiers import UserID, parse_user_id
from yizhan_server.rooms.blocking import check_not_blocked

routes = make_routes()


class InviteBody(msgspec.Struct):
    """PUT /v2/invite."""

    event: dict[str, Any]
    room_version: str
    invite_room_state: list[dict[str, Any]] = []


@routes.get("/v1/make_join/{room_id}/{user_id}")
async def make_join(call: Call[None]) -> JsonObject:
    """Suggest a join."""
    versions = call.query_all("ver") or ["1"]
    return await call.services.residing.make_join(
        call.origin, call.path["room_id"], _user(call), versions
    )


@routes.put("/v2/send_join/{room_id}/{event_id}", body=dict)
async def send_join(call: Call[JsonObject]) -> JsonObject:
    """Take a join, and give the state of the room before it."""
    joined = await call.services.residing.send_join(
        call.origin, call.path["room_id"], call.path["event_id"], call.body
    )
    serving, room = call.services.serving_events, joined.room
    state = await serving.pdus(room, joined.before.state)
    chain = await serving.pdus(room, joined.before.auth_chain)
    return {
        "origin": call.services.server_name,
        "state": [event.raw for event in state],
        "auth_chain": [event.raw for event in chain],
        "members_omitted": False,
        "servers_in_room": await call.services.server_access.servers_in(room),
        # With the signatures of who authorised it and of the room's policy server.
        "event": joined.event.raw,
    }


@routes.put("/v1/send_join/{room_id}/{event_id}", body=dict)
async def send_join_v1(call: Call[JsonObject]) -> list[Any]:
    """Take a join in the form of servers from before 2020, which the specification has dropped."""
    return [200, await send_join(call)]


@routes.get("/v1/make_leave/{room_id}/{user_id}")
async def make_leave(call: Call[None]) -> JsonObject:
    """Suggest a leave."""
    return await call.services.residing.make_leave(call.origin, call.path["room_id"], _user(call))


@routes.put("/v2/send_leave/{room_id}/{event_id}", body=dict)
async def send_leave(call: Call[JsonObject]) -> JsonObject:
    """Take a leave."""
    await call.services.residing.send_leave(
        call.origin, call.path["room_id"], call.path["event_id"], call.body
    )
    return {}


@routes.put("/v1/send_leave/{room_id}/{event_id}", body=dict)
async def send_leave_v1(call: Call[JsonObject]) -> list[Any]:
    """Take a leave in the form of servers from before 2020."""
    return [200, await send_leave(call)]


@routes.get("/v1/make_knock/{room_id}/{user_id}")
async def make_knock(call: Call[None]) -> JsonObject:
    """Suggest a knock."""
    versions = call.query_all("ver") or ["1"]
    return await call.services.residing.make_knock(
        call.origin, call.path["room_id"], _user(call), versions
    )


@routes.put("/v1/send_knock/{room_id}/{event_id}", body=dict)
async def send_knock(call: Call[JsonObject]) -> JsonObject:
    """Take a knock, and describe the room."""
    state = await call.services.residing.send_knock(
        call.origin, call.path["room_id"], call.path["event_id"], call.body
    )
    return {"knock_room_state": state}


@routes.put("/v2/invite/{room_id}/{event_id}", body=InviteBody)
async def invite(call: Call[InviteBody]) -> JsonObject:
    """Take an invitation of a user of this server, and sign it."""
    body = call.body
    await check_not_blocked(call.services.db, call.path["room_id"])
    event = await call.services.inviting.take(
        call.origin, call.path["room_id"], call.path["event_id"], body.event,
        version_name=body.room_version, room_state=body.invite_room_state,
        users=call.services.members,
    )  # fmt: skip
    return {"event": event}


@routes.put("/v1/invite/{room_id}/{event_id}", body=dict)
async def invite_v1(call: Call[JsonObject]) -> list[Any]:
    """Take an invitation to a room of version 1 or 2, in the form of old servers."""
    unsigned = call.body.get("unsigned")
    state = unsigned.get("invite_room_state", []) if isinstance(unsigned, dict) else []
    if not isinstance(state, list) or not all(isinstance(each, dict) for each in state):
        raise BadJson("'invite_room_state' is a list of events")
    await check_not_blocked(call.services.db, call.path["room_id"])
    event = await call.services.inviting.take(
        call.origin, call.path["room_id"], call.path["event_id"], call.body,
        version_name="1", room_state=state, users=call.services.members,
    )  # fmt: skip
    return [200, {"event": event}]


@routes.put("/v1/exchange_third_party_invite/{room_id}", body=dict)
async def exchange_third_party_invite(call: Call[JsonObject]) -> JsonObject:
    """Invite whoever has proven to have an address that was invited."""
    await call.services.third_party_invites.exchange(call.origin, call.path["room_id"], call.body)
    return {}


def _user(call: Call[None]) -> UserID:
    return parse_user_id(call.path["user_id"])
