"""What changed for a user within a window of the stream: the question that both syncs ask.

Everything is answered as of one stream position, the window's end: what arrives meanwhile
belongs to the next window.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from yizhan_database import Database
from yizhan_server.ephemeral.receipts import Receipts
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.access import RoomAccess
from yizhan_server.rooms.room import LATEST
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import out_of_band as stored_out_of_band
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.rooms import UserRoom

SHORT_WINDOW = 1000
"""Positions. In a longer window the user's own rooms are looked at one by one, instead of all
events of the server."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a sync covers: the positions in (after, upto]; `after` None for an initial one."""

    after: int | None
    upto: int

    def __contains__(self, pos: int) -> bool:
        return (self.after or 0) < pos <= self.upto


class UserChanges:
    """Answers what changed."""

    def __init__(
        self, db: Database, keys: StateKeys, access: RoomAccess, receipts: Receipts
    ) -> None:
        self._db = db
        self._keys = keys
        self._access = access
        self._receipts = receipts

    async def rooms(self, user_id: UserID, window: Window) -> list[UserRoom]:
        """Return the rooms that the user has to do with, memberships as of the window's end.

        A room left and forgotten within the window is among them: other devices must learn of it.
        """
        rooms, upto = [], window.upto
        since = LATEST if window.after is None else window.after
        for room in await stored_rooms.rooms_of_user(self._db, user_id, since):
            held = room if room.pos <= upto else await self._rewound(room, user_id, upto)
            if held is not None:
                rooms.append(held)
        return rooms

    async def membership_at(self, room: int, user_id: UserID, pos: int) -> str | None:
        """Return the user's membership of a room as of `pos`; None if there was none."""
        found = await self._member_event(room, user_id, pos)
        return None if found is None else await self._access.membership_of_event(found[0])

    async def rooms_with_events(self, user_id: UserID, window: Window) -> Collection[int]:
        """Return (at least) those of the user's rooms that have events in the window."""
        after = window.after or 0
        if window.upto - after <= SHORT_WINDOW:
            return await stored_events.rooms_with_events(self._db, after, window.upto)
        latest = await stored_rooms.last_activity(self._db, user_id, window.upto)
        return {room for room, pos in latest.items() if pos > after}

    async def rooms_with_receipts(
        self, user_id: UserID, rooms: Collection[int], window: Window
    ) -> set[int]:
        """Return those of `rooms` where a receipt moved that the user may know of."""
        if not rooms or window.after is None or window.after >= window.upto:
            return set()
        return await self._receipts.rooms_changed(user_id, rooms, window.after, window.upto)

    async def _rewound(self, room: UserRoom, user_id: UserID, upto: int) -> UserRoom | None:
        """Return a room whose membership has changed since `upto` as it was then."""
        found = await self._member_event(room.nid, user_id, upto)
        if found is None:
            return None
        nid, pos = found
        event = (await stored_events.events_by_nid(self._db, [nid]))[nid]
        return UserRoom(
            room.nid, room.room_id, str(event.content.get("membership")), event.sender, nid, pos
        )

    async def _member_event(self, room: int, user_id: UserID, upto: int) -> tuple[int, int] | None:
        """Return the event of the user's membership as of `upto`, and since when it was that.

        A later change from outside the room counts more than the state that this server last saw.
        """
        inside = None
        key = await self._keys.find(("m.room.member", user_id))
        if key is not None:
            inside = await stored_state.current_state_change(self._db, room, key, upto)
        outside = await stored_out_of_band.last_change(self._db, room, user_id, upto)
        if outside is not None and (inside is None or outside[1] > inside[1]):
            return outside
        return inside
