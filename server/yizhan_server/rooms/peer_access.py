"""Which rooms another server may know of.

Spec: server-server API, "Spaces".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import server_name_of
from yizhan_server.rooms.join_rules import allowed_rooms, is_knockable, join_rule_of
from yizhan_server.rooms.summaries import is_world_readable
from yizhan_server.storage import room_servers as stored_servers
from yizhan_server.storage import rooms as stored_rooms

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.rooms.room import Room
    from yizhan_server.rooms.server_access import ServerAccess


class PeerRoomAccess:
    """Answers for servers what `RoomAccess` answers for users. One condition per line."""

    def __init__(self, db: Database, access: ServerAccess) -> None:
        self._db = db
        self._access = access

    async def may_know_of(self, room: Room, server: ServerName) -> bool:
        """Tell whether a server may be shown what the room is: its users could enter or read it."""
        if not await is_federated(room):
            return False
        if await is_world_readable(room):
            return True
        if await join_rule_of(room) == "public":
            return True
        if await is_knockable(room):
            return True
        if await stored_servers.is_in_room(self._db, room.nid, server):
            return True
        if await self._has_anybody_invited(room, server):
            return True
        for room_id in await allowed_rooms(room) or ():
            # Of a room that this server has left it does not know who is in it by now.
            admitting = await self._access.find_here(room_id)
            if admitting is None:
                continue
            if await stored_servers.is_in_room(self._db, admitting.nid, server):
                return True
        return False

    async def _has_anybody_invited(self, room: Room, server: ServerName) -> bool:
        users = await stored_rooms.members(self._db, room.nid, "invite")
        return any(server_name_of(user_id) == server for user_id in users)


async def is_federated(room: Room) -> bool:
    """Tell whether users of other servers can ever be in the room."""
    create = await room.state_event("m.room.create")
    return create is None or create.pdu.content.get("m.federate") is not False
