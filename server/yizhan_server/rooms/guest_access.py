"""Which rooms admit guests, and sending guests away from those that no longer do.

Spec: client-server API, "Guest Access".
"""

from __future__ import annotations

import logging
from typing import Protocol

from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.members import Members
from yizhan_server.rooms.room import Room

log = logging.getLogger(__name__)


class GuestSource(Protocol):
    """Knows who is a guest."""

    async def guests_among(self, users: set[UserID]) -> set[UserID]:
        """Return those of these local users who are guests."""
        ...


async def admits_guests(room: Room) -> bool:
    """Whether guests may join the room, and stay."""
    event = await room.state_event("m.room.guest_access")
    return event is not None and event.pdu.content.get("guest_access") == "can_join"


class GuestAccess:
    """Keeps guests out of rooms that do not admit them."""

    def __init__(self, members: Members, guests: GuestSource) -> None:
        self._members = members
        self._guests = guests

    async def check_may_join(self, room: Room, user_id: UserID) -> None:
        """Answer M_GUEST_ACCESS_FORBIDDEN unless guests may be in the room."""
        if not await admits_guests(room) and await room.membership(user_id) != "join":
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "This room admits no guests")

    async def send_away(self, room: Room) -> None:
        """Make our guests leave a room that has just ceased to admit them."""
        if await admits_guests(room):
            return
        for user_id in await self._guests.guests_among(await room.local_users()):
            try:
                await self._members.leave(user_id, room.room_id, None)
            except MatrixError as error:
                log.warning(
                    "a guest could not leave",
                    extra={"room_id": room.room_id, "why": error.errcode},
                )
