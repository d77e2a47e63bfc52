"""What follows from a room's replacement by another, on every server that was in it.

Only the two rooms together say that one replaces the other: anybody can name a predecessor, and
anybody with the power to close a room can name whatever successor. This server follows when it is
in the new room, that is, when somebody of its own has gone there, and it knows the tombstone;
whichever comes last. Then aliases of its own lead to the new room, its directory lists that one,
and people find there what they had set for the old one.

Spec: client-server API, "Room Upgrades", "Server behaviour": "moves any local aliases to the new
room"; it says so of the server that upgrades, but others' aliases would lead to a closed room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from yizhan_database import Database, Transaction
from yizhan_server.protocol.identifiers import RoomID, UserID
from yizhan_server.rooms.join_rules import join_rule_of
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.storage import aliases as stored_aliases


class PersonalSettings(Protocol):
    """What people have set for themselves about a room."""

    async def copy_room_settings(self, user_id: UserID, old: RoomID, new: RoomID) -> None:
        """Give `new` what the user set for `old`, the room that it replaces."""
        ...


class Succession:
    """Lets names and settings follow from a room into the one that replaces it."""

    def __init__(self, db: Database, rooms: Rooms, personal: PersonalSettings) -> None:
        self._db = db
        self._rooms = rooms
        self._personal = personal

    async def follow_into(self, new: Room, user_id: UserID) -> None:
        """Let names follow into a room that a user of ours has joined, and the user's settings."""
        predecessor = await _predecessor_of(new)
        old = await self._rooms.find(predecessor) if predecessor else None
        if old is not None and await _replacement_of(old) == new.room_id:
            await self._follow(old, new, [user_id])

    async def follow_from(self, old: Room) -> None:
        """Let names and settings follow from a room that has just been given its tombstone."""
        replacement = await _replacement_of(old)
        new = await self._rooms.find(replacement) if replacement else None
        if new is None or await _predecessor_of(new) != old.room_id:
            return
        if here := list(await new.local_users()):
            await self._follow(old, new, here)

    async def _follow(self, old: Room, new: Room, users: Sequence[UserID]) -> None:
        await self.move_names(old, new)
        for user_id in users:
            if await old.membership(user_id) in ("join", "leave"):
                await self.copy_settings(old, new, user_id)

    async def move_names(self, old: Room, new: Room) -> None:
        """Let aliases of this server and its directory lead to the new room."""
        is_published = await stored_aliases.is_published(self._db, old.nid)
        if not is_published and not await stored_aliases.aliases_of_room(self._db, old.nid):
            # All is done already; each who joins comes here.
            return
        tx = Transaction()
        stored_aliases.move_aliases(tx, old.nid, new.nid)
        if is_published:
            stored_aliases.delete_published(tx, old.nid)
            if await join_rule_of(new) in ("public", await join_rule_of(old)):
                # One that has become more private is not for a directory that was asked for the
                # old one.
                stored_aliases.append_published(tx, new.nid)
        await self._db.commit(tx)

    async def copy_settings(self, old: Room, new: Room, user_id: UserID) -> None:
        """Give the new room what a user had set for the old one."""
        await self._personal.copy_room_settings(user_id, old.room_id, new.room_id)


async def _predecessor_of(room: Room) -> str:
    """Return the room that this one says it replaces; empty if it says so of none."""
    create = await room.state_event("m.room.create")
    predecessor = None if create is None else create.pdu.content.get("predecessor")
    room_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    return room_id if isinstance(room_id, str) else ""


async def _replacement_of(room: Room) -> str:
    """Return the room that this one's tombstone says replaces it; empty if none does."""
    tombstone = await room.state_event("m.room.tombstone")
    room_id = None if tombstone is None else tombstone.pdu.content.get("replacement_room")
    return room_id if isinstance(room_id, str) else ""
