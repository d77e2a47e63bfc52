"""Closing a room for the people of this server, and removing every trace of it.

People leave, names go (or come along to a room that explains why), then the rows are removed in
small commits. Who has begun a removal is in the database, so that what a crash interrupts goes on
at the next start; meanwhile nobody enters.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field

from yizhan_database import Database, Transaction
from yizhan_server.federation.outbox import NAME as FEDERATION
from yizhan_server.federation.outbox import UNRECORDED, recipients
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import RoomID, ServerName, UserID, server_name_of
from yizhan_server.rooms.aliases import Aliases
from yizhan_server.rooms.creation import NewRoom, RoomCreation
from yizhan_server.rooms.departures import Departures
from yizhan_server.rooms.members import Members
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.rooms.writer import Draft, EventWriter
from yizhan_server.storage import aliases as stored_aliases
from yizhan_server.storage import destinations as stored_destinations
from yizhan_server.storage import purging as storage
from yizhan_server.storage import room_blocks as stored_blocks
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.followers import find_cursor

log = logging.getLogger(__name__)

EVENTS = 200
"""Events of one commit."""
TOLD_WITHIN_S = 60.0
"""A server that is away for longer learns of it when its own people come back to the room."""
ASKED_EVERY_S = 0.2
ROWS = 2000
"""Rows of one commit, of tables with small ones."""


@dataclass(slots=True)
class Closing:
    """How far the closing of a room has come."""

    left: list[UserID] = field(default_factory=list)
    stuck: list[UserID] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    new_room_id: RoomID | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The room to which people are taken instead, and what it says there."""

    speaker: UserID
    room_name: str
    message: str


class RoomRemoval:
    """Closes rooms and removes them."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        members: Members,
        creation: RoomCreation,
        writer: EventWriter,
        aliases: Aliases,
        departures: Departures,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._members = members
        self._creation = creation
        self._writer = writer
        self._aliases = aliases
        self._departures = departures
        self._server_name = server_name

    async def close(self, room: Room, closing: Closing, explanation: Explanation | None) -> None:
        """Make everybody of this server leave, for an explaining room if there is one.

        `closing` is filled in as it goes.
        """
        new = None
        if explanation is not None:
            new = await self._explain(explanation)
            closing.new_room_id = new.room_id
        for user_id in await self._local_users(room):
            was_joined = await room.membership(user_id) == "join"
            try:
                await self._members.leave(user_id, room.room_id, None)
                closing.left.append(user_id)
                if new is not None and was_joined and user_id != closing_speaker(explanation):
                    await self._members.join(user_id, new.room_id, None, {})
            except MatrixError as error:
                closing.stuck.append(user_id)
                log.warning(
                    "could not remove somebody from a room that is being closed",
                    extra={"room_id": room.room_id, "why": error.errcode},
                )
        closing.aliases = await self._aliases.of_room(room)
        tx = Transaction()
        if new is None:
            for alias in closing.aliases:
                stored_aliases.delete_alias(tx, alias)
        else:
            stored_aliases.move_aliases(tx, room.nid, new.nid)
        stored_aliases.delete_published(tx, room.nid)
        await self._db.commit(tx)

    async def begin(self, room_id: str) -> None:
        """Note durably that the room is to be removed; nobody enters it any more."""
        tx = Transaction()
        stored_blocks.append_removal(tx, room_id)
        await self._db.commit(tx)

    async def remove(self, room_id: str) -> None:
        """Remove every trace of a room whose removal has begun."""
        room = await self._rooms.find(room_id)
        if room is not None:
            await self._wait_until_told(room)
            await self._remove_relationships(room)
            await self._remove_events(room)
            await self._remove_rows(room)
        tx = Transaction()
        if room is not None:
            storage.delete_room(tx, room.nid)
        stored_blocks.delete_removal(tx, room_id)
        tx.after_commit(lambda _: self._rooms.forget(room_id))
        await self._db.commit(tx)
        log.info("room removed", extra={"room_id": room_id})

    async def resume(self) -> None:
        """Go on with removals that were interrupted."""
        for room_id in await stored_blocks.rooms_in_removal(self._db):
            await self.remove(room_id)

    async def _explain(self, explanation: Explanation) -> Room:
        wish = NewRoom(
            preset="public_chat",
            name=explanation.room_name,
            power_levels={"users_default": -10},
            may_encrypt=False,
        )
        room = await self._creation.create(explanation.speaker, wish)
        content = {"msgtype": "m.text", "body": explanation.message}
        await self._writer.send(room, Draft(explanation.speaker, "m.room.message", content))
        return room

    async def _local_users(self, room: Room) -> list[UserID]:
        found: list[UserID] = []
        for membership in ("join", "invite", "knock"):
            users = await stored_rooms.members(self._db, room.nid, membership)
            found += [UserID(u) for u in users if server_name_of(u) == self._server_name]
        return found

    async def _wait_until_told(self, room: Room) -> None:
        """Give the other servers in the room a while to be told who has left it.

        What they are owed is read from the events, which are about to go.
        """
        last = await room.last_position(LATEST)
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD_WITHIN_S):
                while not await self._are_told(room, last):  # noqa: ASYNC110 - it is in the database
                    await asyncio.sleep(ASKED_EVERY_S)

    async def _are_told(self, room: Room, last: int) -> bool:
        stays = await stored_destinations.servers_of_rooms(self._db, [room.nid], self._server_name)
        if not stays:
            return True
        noted = await find_cursor(self._db, FEDERATION)
        # Where nothing was owed to anybody, the follower may be further than its row says.
        events = await stored_destinations.own_events(self._db, noted, last, UNRECORDED)
        if len(events) == UNRECORDED or any(
            recipients(event, stays[room.nid]) for event in events if event.room == room.nid
        ):
            return False
        for server, _, _ in stays[room.nid]:
            busy = await stored_destinations.find_busy(self._db, server)
            # A transaction that is composed holds its events.
            if busy is not None and max(busy.sent_pos, busy.upto_pos or 0) < last:
                return False
        return True

    async def _remove_relationships(self, room: Room) -> None:
        users = []
        for membership in ("join", "invite", "knock", "leave", "ban"):
            users += await stored_rooms.members(self._db, room.nid, membership)
        ours = [user for user in users if server_name_of(user) == self._server_name]
        tx = Transaction()
        storage.delete_relationships(tx, room.nid, room.room_id, ours)
        if ours:
            self._departures.record(tx, ours, room.room_id)
        await self._db.commit(tx)

    async def _remove_events(self, room: Room) -> None:
        while events := await storage.any_events(self._db, room.nid, EVENTS):
            tx = Transaction()
            storage.delete_events(tx, self._db, room.nid, events)
            await self._db.commit(tx)
            await asyncio.sleep(0)

    async def _remove_rows(self, room: Room) -> None:
        for table in storage.OF_ROOMS:
            while await storage.has_rows(self._db, table, room.nid):
                tx = Transaction()
                storage.delete_some(tx, table, room.nid, ROWS)
                await self._db.commit(tx)
        for line, _, _ in await storage.lines_of_room(self._db, room.nid):
            for first in range(0, await storage.head_of_line(self._db, line) + 1, ROWS):
                tx = Transaction()
                storage.delete_state(tx, line, first, first + ROWS - 1)
                await self._db.commit(tx)


def closing_speaker(explanation: Explanation | None) -> UserID | None:
    """Return who is in the explaining room already."""
    return None if explanation is None else explanation.speaker
