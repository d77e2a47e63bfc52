"""Profiles.

Spec: client-server API, "Profiles".
"""

from __future__ import annotations

from typing import Any

from yizhan_server.accounts.profiles import check_field_name
from yizhan_server.api.guests import guest_forbidden
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import Forbidden, MissingParam, NotFound
from yizhan_server.protocol.identifiers import UserID, parse_user_id

routes = Routes()


@routes.get("/v3/profile/{user_id}", auth=Auth.OPTIONAL)
async def get_profile(call: Call[None]) -> JsonObject:
    """Show a user's profile. Clients in use ask without a token, as the specification allows.

    Other servers are not asked for those who have not signed in.
    """
    return await _find_profile(call)


@routes.get("/v3/profile/{user_id}/{field}", auth=Auth.OPTIONAL)
async def get_profile_field(call: Call[None]) -> JsonObject:
    """Show one field of a user's profile."""
    field = check_field_name(call.path["field"])
    profile = await _find_profile(call)
    if field not in profile:
        raise NotFound("The profile has no such field")
    return {field: profile[field]}


@routes.put("/v3/profile/{user_id}/{field}", body=dict, limit="messages")
async def set_profile_field(call: Call[dict[str, Any]]) -> JsonObject:
    """Set a field of one's profile."""
    user_id, field = _own(call), check_field_name(call.path["field"])
    if field not in call.body:
        raise MissingParam(f"The body has no '{field}'")
    await call.services.profile_change.set(user_id, field, call.body[field])
    return {}


@routes.delete("/v3/profile/{user_id}/{field}", limit="messages")
async def remove_profile_field(call: Call[None]) -> JsonObject:
    """Remove a field of one's profile."""
    await call.services.profile_change.remove(_own(call), call.path["field"])
    return {}


async def _find_profile(call: Call[None]) -> dict[str, Any]:
    user_id = parse_user_id(call.path["user_id"])
    if not call.services.accounts.is_local(user_id):
        return await call.services.remote_profiles.find(user_id, call.ask_another_server)
    if await call.services.accounts.find_active(user_id) is None:
        raise NotFound("There is no such user")
    return await call.services.profiles.find(user_id)


def _own(call: Call[Any]) -> UserID:
    if call.path["user_id"] != call.requester.user_id:
        raise Forbidden("This is somebody else's profile")
    if call.requester.is_guest and call.path["field"] != "displayname":
        raise guest_forbidden()
    return call.requester.user_id
