"""Gates for other servers: what one may see and do of a room, as proof.

A server sees what some user of its could see. Spec: server-server API, "Room History
Visibility"; client-server API, "Room History Visibility".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yizhan_database import Database
from yizhan_server.protocol.errors import Forbidden, NotFound
from yizhan_server.protocol.event import Pdu, redact_pdu
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.server_acl import NO_ACL, ServerAcl
from yizhan_server.protocol.visibility import SHARED, WORLD_READABLE
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import room_servers as stored_servers
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.accounts import find_erased
from yizhan_server.storage.events import KnownPdu


@dataclass(frozen=True, slots=True)
class RoomOfServer:
    """Proof that a server has or had a user in a room, and is not shut out of it."""

    room: Room
    server: ServerName
    upto: int = LATEST
    """The position of the last event that is for it, which ended its stay."""

    def may_begin_at(self, event: KnownPdu) -> bool:
        """Whether the server may ask for an event by its ID, and for what that refers to.

        Of a room that it has left not for what came later. State without a position is from
        before: it authorises what the server has.
        """
        if self.upto == LATEST:
            return True
        return event.pdu.is_state if event.pos is None else event.pos <= self.upto


async def check_server_acl(room: Room, server: ServerName) -> None:
    """Answer M_FORBIDDEN to a server that the room shuts out."""
    event = await room.state_event("m.room.server_acl")
    acl = NO_ACL if event is None else ServerAcl(event.pdu.content)
    if not acl.is_allowed(server):
        raise Forbidden("This server is shut out of the room")


class ServerAccess:
    """Answers what another server may do with a room."""

    def __init__(
        self, db: Database, rooms: Rooms, keys: StateKeys, server_name: ServerName
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._keys = keys
        self._server_name = server_name

    async def access_shared_room(self, server: ServerName, room_id: str) -> RoomOfServer:
        """Return proof that a server is in a room together with this one, or answer 403."""
        room = await self._rooms.find(room_id)
        if room is None:
            raise Forbidden("This server is not in the room")
        await check_server_acl(room, server)
        if not await stored_servers.is_in_room(self._db, room.nid, server):
            raise Forbidden("Your server is not in the room")
        return RoomOfServer(room, server)

    async def access_past_room(self, server: ServerName, room_id: str) -> RoomOfServer:
        """Return proof that a server is in a room, or was: then up to the end of its stay.

        Whoever is removed is owed the event that says so, and needs what that refers to, or goes
        on as if nothing had happened. Answers 403 to all others.
        """
        room = await self._rooms.find(room_id)
        if room is None:
            raise Forbidden("This server is not in the room")
        await check_server_acl(room, server)
        upto = await stored_servers.end_of_stay(self._db, room.nid, server)
        if upto is None:
            raise Forbidden("Your server is not in the room")
        return RoomOfServer(room, server, upto or LATEST)

    async def access_resident_room(
        self, server: ServerName, room_id: str, *, even_if_empty: bool = False
    ) -> Room:
        """Return a room that this server can let others into, or answer M_NOT_FOUND.

        With `even_if_empty` also one that everybody has left, for those who are still invited.
        """
        room = await self._rooms.find(room_id)
        if room is None or not await self.is_here(room):
            raise NotFound("This server is not in the room")
        if not even_if_empty and self._server_name not in await self.servers_in(room):
            raise NotFound("Everybody has left the room")
        await check_server_acl(room, server)
        return room

    async def find_here(self, room_id: str) -> Room | None:
        """Return a room that this server can act in."""
        room = await self._rooms.find(room_id)
        return room if room is not None and await self.is_here(room) else None

    async def is_here(self, room: Room) -> bool:
        """Whether this server can act in the room: somebody is joined, or nobody anywhere is."""
        if not room.committed.extremities:
            return False
        if await room.local_users():
            return True
        return not await stored_servers.servers_now(self._db, room.nid)

    async def servers_in(self, room: Room) -> list[str]:
        """Return the servers that have somebody joined."""
        return await stored_servers.servers_now(self._db, room.nid)

    async def access_event(self, server: ServerName, event_id: str) -> Pdu:
        """Return an event that a server may see, or answer M_NOT_FOUND."""
        found = await stored_events.find_event(self._db, event_id)
        if found is None:
            raise NotFound("Event not found")
        room = (await self._rooms.by_nid([found[0]]))[found[0]]
        try:
            shared = await self.access_past_room(server, room.room_id)
        except Forbidden:
            raise NotFound("Event not found") from None
        return (await self.as_visible(shared, [await self.get_room_event(shared, event_id)]))[0]

    async def get_room_event(self, of: RoomOfServer, event_id: str) -> KnownPdu:
        """Return an event of the room, of whatever standing, or answer M_NOT_FOUND."""
        room = of.room
        known = await stored_events.known_pdus(self._db, room.nid, [event_id], room.version)
        for event in known.values():
            if of.may_begin_at(event):
                return event
        raise NotFound("Event not found")

    async def as_visible(self, of: RoomOfServer, events: Sequence[KnownPdu]) -> list[Pdu]:
        """Return the events, redacted where the server had nobody in the room to see them.

        What everybody in the room may see of earlier times is shown. Of those who asked for
        erasure nothing is, "as much as possible": who was in the room has got it by now, as
        others may have from there. State is never hidden: the server has it anyhow, and needs it
        to judge events.
        """
        room = of.room
        number = await self._keys.find(("m.room.history_visibility", ""))
        history: list[tuple[int, str]] = []
        if number is not None:
            changes = await stored_state.current_state_history(self._db, room.nid, number)
            known = await stored_events.events_by_nid(self._db, [nid for _, nid in changes if nid])
            history = [
                (pos, _visibility(known[nid].content) if nid in known else SHARED)
                for pos, nid in changes
            ]
        senders = {each.pdu.sender for each in events if not each.pdu.is_state}
        erased = await find_erased(self._db, senders) if senders else set()
        visible = []
        for each in events:
            hidden = (
                not each.pdu.is_state
                and each.pos is not None
                and (
                    each.pdu.sender in erased
                    or (
                        _value_at(history, each.pos) not in (SHARED, WORLD_READABLE)
                        and of.server
                        not in await stored_servers.servers_at(
                            self._db, room.nid, max(each.pos, 0) + 1
                        )
                    )
                )
            )
            visible.append(redact_pdu(each.pdu, room.version) if hidden else each.pdu)
        return visible


def _visibility(content: dict[str, object]) -> str:
    value = content.get("history_visibility")
    return value if isinstance(value, str) else SHARED


def _value_at(history: Sequence[tuple[int, str]], pos: int) -> str:
    """Return the visibility at a position; what is from before all of it counts as the first."""
    if not history:
        return SHARED
    value = history[0][1]
    for start, changed in history:
        if start > pos:
            break
        value = changed
    return value
