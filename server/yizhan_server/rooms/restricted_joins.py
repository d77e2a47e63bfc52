"""Who lets somebody into a restricted room.

Spec: client-server API, "Restricted rooms"; server-server API, "Restricted rooms".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.join_rules import allowed_rooms
from yizhan_server.rooms.power import current_power_levels
from yizhan_server.rooms.room import Room

AUTHORISER = "join_authorised_via_users_server"
"""The key of a join's content that names who lets its sender in."""


async def find_authoriser(
    find_here: Callable[[str], Awaitable[Room | None]], room: Room, user_id: UserID
) -> UserID | None:
    """Return who of ours lets the user into a restricted room; None if the room is not one.

    Somebody with the power to invite, when the user is joined to one of the rooms that the join
    rule allows. M_UNABLE_TO_AUTHORISE_JOIN where this server is in none of these rooms,
    M_UNABLE_TO_GRANT_JOIN where nobody here may invite: another server may be able to.
    """
    allowed = await allowed_rooms(room)
    if allowed is None:
        return None
    # Of a room that this server has left it does not know who is in it by now.
    admitting = [each for room_id in allowed if (each := await find_here(room_id)) is not None]
    if not any([await each.membership(user_id) == "join" for each in admitting]):
        if allowed and not admitting:
            raise MatrixError(
                400, "M_UNABLE_TO_AUTHORISE_JOIN", "This server is in none of the rooms that would"
            )
        raise Forbidden("You are in none of the rooms that would let you join this one")
    levels = await current_power_levels(room)
    candidates = [
        user for user in await room.local_users() if levels.of_user(user) >= levels.invite
    ]
    if not candidates:
        raise MatrixError(400, "M_UNABLE_TO_GRANT_JOIN", "Nobody on this server may let you in")
    return max(candidates, key=lambda user: (levels.of_user(user), user))
