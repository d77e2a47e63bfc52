"""What an application service is interested in: events, rooms, users.

Who is joined is judged as of the event, so that a service that was away for a while misses
nothing of a room that its user has left since, and reads nothing from before its user came.

Spec: application service API, "Registration".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet

from yizhan_database import Database
from yizhan_server.appservices.registration import Appservice
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.storage import aliases as stored_aliases
from yizhan_server.storage import appservices as storage
from yizhan_server.storage import device_changes as stored_changes
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.events import StoredEvent

CACHED_ROOMS = 5000


class Interests:
    """Answers whether something concerns a service."""

    def __init__(self, db: Database, rooms: Rooms) -> None:
        self._db = db
        self._rooms = rooms
        self._own: OrderedDict[tuple[str, int], tuple[AbstractSet[UserID], frozenset[str]]] = (
            OrderedDict()
        )
        """The service's users who are joined to a room, with the members that this was read of."""

    async def in_event(self, service: Appservice, room: Room, event: StoredEvent) -> bool:
        """Whether the event is sent to the service."""
        if service.has_user(event.sender) or _is_target(service, event):
            return True
        if await self._in_names_of(service, room):
            return True
        changed = await storage.memberships_after(self._db, room.nid, event.pos)
        changed = [user_id for user_id in changed if service.has_user(user_id)]
        if not (await self._joined(service, room)).issubset(changed):
            return True
        for user_id in changed:
            before = await stored_changes.member_event_at(self._db, room.nid, user_id, event.pos)
            said = await stored_changes.memberships_said(self._db, [before]) if before else {}
            if said.get(before) == "join":
                return True
        return False

    async def in_room(self, service: Appservice, room: Room) -> bool:
        """Whether what happens in the room now is sent to the service."""
        return bool(await self._joined(service, room)) or await self._in_names_of(service, room)

    async def in_user(self, service: Appservice, user_id: str) -> bool:
        """Whether the user is the service's, or shares a room with it."""
        if service.has_user(user_id):
            return True
        joined = [
            membership.room
            for membership in await stored_rooms.memberships_of_user(self._db, user_id)
            if membership.membership == "join"
        ]
        for room in (await self._rooms.by_nid(joined)).values():
            if await self.in_room(service, room):
                return True
        return False

    async def _in_names_of(self, service: Appservice, room: Room) -> bool:
        """Whether the room's id or one of its aliases is in the namespaces."""
        if service.has_room(room.room_id):
            return True
        if not service.aliases:
            return False
        aliases = await stored_aliases.aliases_of_room(self._db, room.nid)
        return any(map(service.has_alias, aliases))

    async def _joined(self, service: Appservice, room: Room) -> frozenset[str]:
        """Return the service's users who are joined now."""
        members = await room.local_users()
        key = (service.id, room.nid)
        known = self._own.get(key)
        if known is not None and known[0] is members:
            self._own.move_to_end(key)
            return known[1]
        own = frozenset(str(user_id) for user_id in members if service.has_user(user_id))
        self._own[key] = (members, own)
        self._own.move_to_end(key)
        if len(self._own) > CACHED_ROOMS:
            self._own.popitem(last=False)
        return own


def _is_target(service: Appservice, event: StoredEvent) -> bool:
    return (
        event.type == "m.room.member"
        and event.state_key is not None
        and service.has_user(event.state_key)
    )
