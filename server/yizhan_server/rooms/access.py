"""Gates of the room: each returns proof that later functions demand as an argument.

One condition per line, so that coverage shows that each has been tried both ways.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from msgspec.structs import replace

from yizhan_database import Database
from yizhan_server.protocol.errors import Forbidden, NotFound
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.visibility import SHARED, WORLD_READABLE, may_see
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.accounts import find_erased
from yizhan_server.storage.events import REDACTED, REJECTED, SOFT_FAILED, StoredEvent
from yizhan_server.storage.state import Point, StateKey


@dataclass(frozen=True, slots=True)
class JoinedRoom:
    """Proof that a user is joined to a room."""

    room: Room
    user_id: UserID


@dataclass(frozen=True, slots=True)
class ReadableRoom:
    """Proof that a user may read a room, up to a stream position."""

    room: Room
    user_id: UserID
    membership: str
    """join, leave or ban; `peek` for a reader of a world-readable room."""
    upto: int
    """The position of the user's own leave; LATEST for members and peekers."""


@dataclass(frozen=True, slots=True)
class VisibleEvent:
    """Proof that a user may see an event."""

    readable: ReadableRoom
    event: StoredEvent


class RoomAccess:
    """Answers who may do what with a room."""

    def __init__(self, db: Database, rooms: Rooms, keys: StateKeys) -> None:
        self._db = db
        self._rooms = rooms
        self._keys = keys

    async def access_joined_room(self, user_id: UserID, room_id: str) -> JoinedRoom:
        """Return proof that the user is joined, or answer M_FORBIDDEN."""
        room = await self._rooms.find(room_id)
        if room is None:
            # The same answer as for a room that exists: who is outside learns nothing.
            raise Forbidden("You are not in this room")
        if await room.membership(user_id) != "join":
            raise Forbidden("You are not in this room")
        return JoinedRoom(room, user_id)

    async def access_readable_room(
        self, user_id: UserID, room_id: str, *, peek: bool = True
    ) -> ReadableRoom:
        """Return proof that the user may read the room, now or up to the own leave.

        A room that the user forgot is as if never joined. With `peek`, a world-readable room
        may be read by everybody.
        """
        room = await self._rooms.find(room_id)
        if room is None:
            raise Forbidden("You are not in this room")
        found = await stored_rooms.find_membership(self._db, room.nid, user_id)
        if found is not None and found.membership == "join":
            return ReadableRoom(room, user_id, "join", LATEST)
        if found is not None and found.membership in ("leave", "ban") and not found.forgotten:
            # Someone invited or knocking who then left never read anything; and who is banned
            # after leaving reads no more than when leaving.
            ended = await self.end_of_stay(room, user_id, LATEST)
            if ended is not None:
                return ReadableRoom(room, user_id, found.membership, ended)
        if peek and await self._visibility(room) == WORLD_READABLE:
            return ReadableRoom(room, user_id, "peek", LATEST)
        raise Forbidden("You are not in this room")

    async def access_event(self, user_id: UserID, room_id: str, event_id: str) -> VisibleEvent:
        """Return an event that the user may see, or answer M_NOT_FOUND."""
        try:
            readable = await self.access_readable_room(user_id, room_id)
        except Forbidden:
            raise NotFound("Event not found") from None
        found = await stored_events.find_event(self._db, event_id)
        if found is None:
            raise NotFound("Event not found")
        room_nid, event = found
        if room_nid != readable.room.nid:
            raise NotFound("Event not found")
        if event.pos == 0:
            raise NotFound("Event not found")
        if event.flags & (REJECTED | SOFT_FAILED):
            raise NotFound("Event not found")
        if not await self.visible(readable, [event]):
            raise NotFound("Event not found")
        return VisibleEvent(readable, event)

    async def access_event_anywhere(self, user_id: UserID, event_id: str) -> VisibleEvent:
        """Return an event that the user may see, of whichever room, or answer M_NOT_FOUND."""
        found = await stored_events.find_event(self._db, event_id)
        if found is None:
            raise NotFound("Event not found")
        room_ids = await stored_rooms.room_ids(self._db, [found[0]])
        return await self.access_event(user_id, room_ids[found[0]], event_id)

    async def visible(
        self, readable: ReadableRoom, events: Sequence[StoredEvent]
    ) -> list[StoredEvent]:
        """Return those of `events` (of one room) that the reader may see, in their order.

        Spec: client-server API, "Room History Visibility".
        """
        if not events:
            return []
        user_id = readable.user_id
        visibility = await self._timeline(readable.room, ("m.room.history_visibility", ""))
        membership = await self._timeline(readable.room, ("m.room.member", user_id))
        seen = []
        for event in events:
            if event.pos > readable.upto:
                continue
            # An event that changes one of the two is also seen if the state before it allows.
            moments = zip(visibility.moments(event), membership.moments(event), strict=True)
            # History from before the first visibility that is known here counts as under it.
            least = 1 if event.pos < 0 else 0
            if any(
                may_see(
                    visibility=visibility.at(max(least, then), "history_visibility"),
                    membership=membership.at(now, "membership"),
                    joined_later=membership.ever_after(now, "membership", "join"),
                )
                for then, now in moments
            ):
                seen.append(event)
        return seen

    async def membership_at(
        self, readable: ReadableRoom, events: Sequence[StoredEvent]
    ) -> list[str]:
        """Return the reader's membership at each of `events`, `leave` where there was none."""
        timeline = await self._timeline(readable.room, ("m.room.member", readable.user_id))
        return [
            timeline.at(timeline.moments(event)[0], "membership") or "leave" for event in events
        ]

    async def without_erased(
        self, events: Sequence[StoredEvent], memberships: Sequence[str]
    ) -> list[StoredEvent]:
        """Return the events, those as redacted whose senders asked for erasure.

        `memberships` are the reader's at each: who was in the room when such an event was sent
        has seen it, and still does. Spec: client-server API, `erase` of "/account/deactivate".
        """
        unseen = {
            event.sender
            for event, membership in zip(events, memberships, strict=True)
            if membership != "join"
        }
        erased = await find_erased(self._db, unseen) if unseen else set()
        if not erased:
            return list(events)
        return [
            replace(event, flags=event.flags | REDACTED)
            if event.sender in erased and membership != "join"
            else event
            for event, membership in zip(events, memberships, strict=True)
        ]

    async def membership_of_event(self, nid: int) -> str | None:
        """Return the membership that a member event sets."""
        found = await stored_events.events_by_nid(self._db, [nid])
        value = found[nid].content.get("membership") if nid in found else None
        return value if isinstance(value, str) else None

    async def still_current(
        self, room: Room, events: Sequence[StoredEvent], upto: int
    ) -> list[StoredEvent]:
        """Return those of `events` that are the room's state as of `upto`."""
        found = []
        for event in events:
            key = await self._keys.find((event.type, event.state_key or ""))
            if event.state_key is None or key is None:
                continue
            nid = await stored_state.current_state_event(self._db, room.nid, key, upto)
            if nid == event.nid:
                found.append(event)
        return found

    async def state_at(self, room: Room, point: Point, key: StateKey) -> StoredEvent | None:
        """Return the state event of a key at a place of the state log."""
        key_nid = await self._keys.find(key)
        if key_nid is None:
            return None
        nid = await stored_state.state_event_at(self._db, point, key_nid)
        if nid is None:
            return None
        return (await stored_events.events_by_nid(self._db, [nid]))[nid]

    async def _visibility(self, room: Room) -> str:
        event = await room.state_event("m.room.history_visibility")
        value = None if event is None else event.pdu.content.get("history_visibility")
        return value if isinstance(value, str) else SHARED

    async def was_joined(self, room: Room, user_id: str) -> bool:
        """Whether the user was ever joined to the room."""
        return await self.end_of_stay(room, user_id, LATEST) is not None

    async def end_of_stay(self, room: Room, user_id: str, upto: int) -> int | None:
        """Return the position at which the user's last stay until `upto` ended.

        `upto` if it has not; None for somebody who was never joined.
        """
        timeline = await self._timeline(room, ("m.room.member", user_id))
        ended = None
        for pos, content in zip(timeline.positions, timeline.contents, strict=True):
            if pos > upto:
                break
            if content.get("membership") == "join":
                ended = upto
            elif ended == upto:
                ended = pos
        return ended

    async def _timeline(self, room: Room, key: StateKey) -> _Timeline:
        """Return every value that a key of the current state has had."""
        key_nid = await self._keys.find(key)
        if key_nid is None:
            return _Timeline([], [], [])
        changes = await stored_state.current_state_history(self._db, room.nid, key_nid)
        known = await stored_events.events_by_nid(
            self._db, [nid for _, nid in changes if nid != stored_state.REMOVED]
        )
        depths = [known[nid].depth if nid in known else 0 for _, nid in changes]
        return _Timeline(
            [pos for pos, _ in changes],
            list(accumulate(depths, max)),
            [known[nid].content if nid in known else {} for _, nid in changes],
        )


@dataclass(frozen=True, slots=True)
class _Timeline:
    """The contents of one state key with the positions from which they held, ascending.

    A moment is told by the number of changes that had happened.
    """

    positions: list[int]
    depths: list[int]
    contents: list[dict[str, object]]

    def moments(self, event: StoredEvent) -> list[int]:
        """Return the moment of an event, and for a state event that just before it.

        The positions of history say nothing about when it happened; its depths do.
        """
        scale, place = self.positions, event.pos
        if event.pos < 0:
            scale, place = self.depths, event.depth
        places = [place] if event.state_key is None else [place, place - 1]
        return [bisect_right(scale, each) for each in places]

    def at(self, moment: int, field: str) -> str | None:
        """Return a string field of the content that held at a moment."""
        if moment == 0 or not self.contents:
            return None
        value = self.contents[moment - 1].get(field)
        return value if isinstance(value, str) else None

    def ever_after(self, moment: int, field: str, value: str) -> bool:
        """Whether a change after a moment set the field to `value`."""
        return any(content.get(field) == value for content in self.contents[moment:])
