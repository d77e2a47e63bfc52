"""Which rooms a list's filters let pass.

State is that of the window's end, of a room that the user has left as of then.

Spec: MSC4186, "SlidingRoomFilter".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from yizhan_database import Database
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.rooms import UserRoom
from yizhan_server.sync.account_data import AccountDataChanges
from yizhan_server.sync.sliding.request import FiltersBody
from yizhan_server.sync.sliding.room_state import shown_content
from yizhan_server.sync.summaries import find_heroes

CACHED_TYPES = 20_000


@dataclass(slots=True)
class Choice:
    """The rooms to choose from, and what has been read about them for one answer's lists."""

    user_id: UserID
    upto: int
    rooms: list[UserRoom]
    directs: frozenset[str]
    tags: dict[str, frozenset[str]] | None = None
    states: dict[str, dict[int, int]] = field(default_factory=dict)
    """By event type: room -> event."""
    names: dict[int, str] = field(default_factory=dict)
    """By room, for comparing: the name, or those of whom the room is named after."""
    children: dict[int, frozenset[str]] = field(default_factory=dict)


class RoomFilters:
    """Applies filters."""

    def __init__(
        self, db: Database, keys: StateKeys, rooms: Rooms, account_data: AccountDataChanges
    ) -> None:
        self._db = db
        self._keys = keys
        self._rooms = rooms
        self._account_data = account_data
        self._types: OrderedDict[int, str | None] = OrderedDict()
        """By room number; a room's type never changes."""

    async def select(self, choice: Choice, filters: FiltersBody) -> list[UserRoom]:
        """Return the rooms that pass; the cheap filters come first."""
        left = choice.rooms
        if filters.is_dm is not None:
            left = [room for room in left if (room.room_id in choice.directs) == filters.is_dm]
        invited = filters.is_invited if filters.is_invite is None else filters.is_invite
        if invited is not None:
            left = [room for room in left if (room.membership == "invite") == invited]
        if filters.tags is not None or filters.not_tags is not None:
            left = await self._tagged(choice, left, filters)
        if filters.spaces is not None:
            left = await self._in_spaces(choice, left, set(filters.spaces))
        if filters.is_encrypted is not None:
            encrypted = await self._state_of(choice, "m.room.encryption")
            left = [room for room in left if (room.nid in encrypted) == filters.is_encrypted]
        if filters.room_types is not None or filters.not_room_types is not None:
            left = await self._of_types(choice, left, filters)
        if filters.room_name_like is not None:
            left = await self._named_like(choice, left, filters.room_name_like)
        return left

    async def _tagged(
        self, choice: Choice, rooms: list[UserRoom], filters: FiltersBody
    ) -> list[UserRoom]:
        if choice.tags is None:
            choice.tags = await self._account_data.tags(choice.user_id)
        tags, none = choice.tags, frozenset[str]()
        return [
            room
            for room in rooms
            if (filters.tags is None or tags.get(room.room_id, none) & set(filters.tags))
            and not tags.get(room.room_id, none) & set(filters.not_tags or ())
        ]

    async def _in_spaces(
        self, choice: Choice, rooms: list[UserRoom], spaces: set[str]
    ) -> list[UserRoom]:
        """Return the rooms that joined ones of `spaces` name directly."""
        children: set[str] = set()
        for space in choice.rooms:
            if space.room_id in spaces and space.membership == "join":
                children |= await self._children(choice, space.nid)
        return [room for room in rooms if room.room_id in children]

    async def _children(self, choice: Choice, space: int) -> frozenset[str]:
        if space in choice.children:
            return choice.children[space]
        nids = []
        for key in await stored_state.keys_of_type(self._db, space, "m.space.child"):
            event = await stored_state.current_state_event(self._db, space, key, choice.upto)
            if event is not None:
                nids.append(event)
        events = await stored_events.events_by_nid(self._db, nids)
        # Without `via` it is no child (any more).
        found = choice.children[space] = frozenset(
            event.state_key or ""
            for event in events.values()
            if isinstance(shown_content(event).get("via"), list)
        )
        return found

    async def _of_types(
        self, choice: Choice, rooms: list[UserRoom], filters: FiltersBody
    ) -> list[UserRoom]:
        unknown = {room.nid for room in rooms if room.nid not in self._types}
        types = {room.nid: self._types[room.nid] for room in rooms if room.nid not in unknown}
        if unknown:
            creations = await self._contents(choice, "m.room.create", unknown)
            for nid in unknown:
                value = creations.get(nid, {}).get("type")
                types[nid] = self._types[nid] = value if isinstance(value, str) else None
        while len(self._types) > CACHED_TYPES:
            self._types.popitem(last=False)
        wanted, unwanted = filters.room_types, filters.not_room_types or []
        return [
            room
            for room in rooms
            if (wanted is None or types[room.nid] in wanted) and types[room.nid] not in unwanted
        ]

    async def _named_like(self, choice: Choice, rooms: list[UserRoom], text: str) -> list[UserRoom]:
        """Return the rooms with `text` in the name, or in those of whom they are named after."""
        names = choice.names
        unread = {room.nid for room in rooms if room.nid not in names}
        named = await self._contents(choice, "m.room.name", unread) if unread else {}
        for room in rooms:
            if room.nid not in names:
                name = named.get(room.nid, {}).get("name")
                if not (isinstance(name, str) and name):
                    name = await self._heroes_names(choice.user_id, room)
                names[room.nid] = name.casefold()
        return [room for room in rooms if text.casefold() in names[room.nid]]

    async def _heroes_names(self, user_id: UserID, room: UserRoom) -> str:
        if room.membership != "join":
            return ""
        heroes = await find_heroes(self._db, await self._rooms.get(room.room_id), user_id)
        members = await stored_events.events_by_nid(self._db, [event for _, event in heroes])
        return "\n".join(
            str(shown_content(members[event]).get("displayname") or user) for user, event in heroes
        )

    async def _contents(
        self, choice: Choice, kind: str, rooms: Iterable[int]
    ) -> dict[int, dict[str, Any]]:
        """Return the content of one state event of each of these rooms that has it."""
        events = await self._state_of(choice, kind)
        nids = {room: events[room] for room in rooms if room in events}
        known = await stored_events.events_by_nid(self._db, list(nids.values()))
        return {room: shown_content(known[nid]) for room, nid in nids.items()}

    async def _state_of(self, choice: Choice, kind: str) -> dict[int, int]:
        if kind not in choice.states:
            key = await self._keys.find((kind, ""))
            choice.states[kind] = {}
            if key is not None:
                choice.states[kind] = await stored_state.current_state_of_rooms(
                    self._db, choice.user_id, key, choice.upto
                )
        return choice.states[kind]
