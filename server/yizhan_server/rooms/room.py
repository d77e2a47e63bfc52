"""The Room aggregate: what is committed, and the tail that is built but not yet durable.

`committed` is all that readers, gates and /sync see. The tail serves only to build and
authorise the next event, so that events of one room can share an fsync: the lock is held until a
job is enqueued, not until it is durable. When a job fails, its lane is closed; every job that
was built on it fails too, and the room is read anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from yizhan_database import Commit, Database, Lane
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import RoomID, UserID, server_name_of
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REDACTED, StoredEvent
from yizhan_server.storage.rooms import Extremity, StoredRoom
from yizhan_server.storage.state import Point, StateKey

LATEST = 2**62
"""Greater than any stream position."""

RING_BYTES = 64 << 10
"""Serialized bytes of recent events that one room keeps in memory."""

CACHED_MEMBERS = 500
"""Member events kept parsed per room; all other state that authorises is a handful."""


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A state event with its number."""

    nid: int
    pdu: Pdu


StateChanges = dict[StateKey, StateEvent | None]
"""What state keys became; None where state resolution left a key without an event."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the room's DAG ends, and which version of the room's row says so."""

    extremities: tuple[Extremity, ...]
    ver: int


class Room:
    """One room that this server is or was in. One instance per room and process."""

    def __init__(self, db: Database, keys: StateKeys, server_name: str, stored: StoredRoom) -> None:
        self._db = db
        self._keys = keys
        self._server_name = server_name
        self.nid = stored.nid
        self.room_id = RoomID(stored.room_id)
        self.version = ROOM_VERSIONS[stored.version]
        # Order: one room's lock at a time; whoever needs several takes them in nid order.
        self.lock = asyncio.Lock()
        self.committed = Head(stored.extremities, stored.ver)
        self.tail = self.committed
        self.lane = Lane()
        self.last_job: asyncio.Future[Commit] | None = None
        """The job that leads to the tail, done or not; None if this process submitted none."""
        self.line_head: Point | None = None
        """The place of the tail's only end, where that is known to be the head of its line."""
        self.last_pos = 0
        """Position of the last live event that this process committed or read; 0 if unknown."""
        self.ring: deque[StoredEvent] = deque()
        self.ring_from = LATEST
        """Every live event with a position above this is in the ring."""
        self._ring_bytes = 0
        self._state: OrderedDict[StateKey, StateEvent | None] = OrderedDict()
        self._tail_state: StateChanges = {}
        self._local_users: set[UserID] | None = None
        self._joined_count: int | None = None
        self._peekers: Counter[str] = Counter()
        self.membership_changes = 0
        """Counts changes of membership, for caches made of the members."""

    # What readers see

    async def state_event(self, kind: str, state_key: str = "") -> StateEvent | None:
        """Return the committed current state event of a key."""
        key = (kind, state_key)
        if key in self._state:
            self._state.move_to_end(key)
            return self._state[key]
        committed = self.committed
        found = await self._load_state_event(key)
        if key in self._state:
            # A commit during the read has put its own, newer event there.
            return self._state[key]
        if self.committed is committed:
            # Else one may have been put there, and have made room for others since.
            self._state[key] = found
            self._forget_unused()
        return found

    async def membership(self, user_id: str) -> str | None:
        """Return a user's committed membership: join, invite, knock, leave, ban or None."""
        event = await self.state_event("m.room.member", user_id)
        if event is None:
            return None
        membership = event.pdu.content.get("membership")
        return membership if isinstance(membership, str) else None

    async def local_users(self) -> set[UserID]:
        """Return the joined users of this server. Not to be changed by the caller."""
        while self._local_users is None:
            changes = self.membership_changes
            joined = await stored_rooms.members(self._db, self.nid, "join")
            if changes == self.membership_changes:
                self._local_users = {
                    UserID(user) for user in joined if server_name_of(user) == self._server_name
                }
        return self._local_users

    async def joined_count(self) -> int:
        """Return how many users of all servers are joined."""
        while self._joined_count is None:
            changes = self.membership_changes
            counts = await stored_rooms.membership_counts(self._db, self.nid)
            if changes == self.membership_changes:
                self._joined_count = counts.get("join", 0)
        return self._joined_count

    def concerned(self, users: AbstractSet[str]) -> set[str]:
        """Return those of `users` who are joined, or peek; all while the members are unread."""
        if self._local_users is None:
            return set(users)
        return {user for user in users if user in self._local_users or user in self._peekers}

    @contextmanager
    def peeked_by(self, user_id: UserID) -> Iterator[None]:
        """While this lasts, what happens here also concerns `user_id`, who need not be joined."""
        self._peekers[user_id] += 1
        try:
            yield
        finally:
            self._peekers[user_id] -= 1
            if not self._peekers[user_id]:
                del self._peekers[user_id]

    async def last_position(self, upto: int) -> int:
        """Return the position of the last live event at or before `upto`."""
        if 0 < self.last_pos <= upto:
            return self.last_pos
        position = await stored_events.last_position(self._db, self.nid, upto)
        if self.last_pos == 0 and upto == LATEST:
            self.last_pos = position
        return position

    async def events_after(self, after: int, upto: int, limit: int) -> list[StoredEvent]:
        """Return the last `limit` live events with after < pos <= upto, ascending."""
        if after >= self.ring_from:
            found = [event for event in self.ring if after < event.pos <= upto]
            return found[-limit:] if limit else []
        return await stored_events.events_after(self._db, self.nid, after, upto, limit)

    def _forget_unused(self) -> None:
        while len(self._state) > CACHED_MEMBERS:
            self._state.popitem(last=False)

    async def _load_state_event(self, key: StateKey) -> StateEvent | None:
        key_nid = await self._keys.find(key)
        if key_nid is None:
            return None
        nid = await stored_state.current_state_event(self._db, self.nid, key_nid, LATEST)
        if nid is None:
            return None
        pdus = await stored_events.pdus_by_nid(self._db, [nid], self.version)
        return StateEvent(nid, pdus[nid])

    # What the writer sees

    async def tail_state_event(self, key: StateKey) -> StateEvent | None:
        """Return the state event of a key after everything built so far."""
        if key in self._tail_state:
            return self._tail_state[key]
        return await self.state_event(*key)

    def enqueue(
        self,
        head: Head,
        changes: StateChanges,
        job: asyncio.Future[Commit],
        line_head: Point | None,
    ) -> None:
        """Advance the tail: `job`, which leads to `head`, has just been submitted.

        `line_head` is where its only end continues a line; None where it is not known to.
        """
        self.tail = head
        self.line_head = line_head
        self.last_job = job
        self._tail_state.update(changes)

    def commit(self, head: Head, changes: StateChanges, events: Iterable[StoredEvent]) -> None:
        """Show what has become durable. Called after the commit, in commit order."""
        self.committed = head
        for key, event in changes.items():
            self._state[key] = event
            self._state.move_to_end(key)
            if key in self._tail_state and self._tail_state[key] is event:
                del self._tail_state[key]
            if key[0] == "m.room.member":
                self._commit_membership(UserID(key[1]), None if event is None else event.pdu)
        for stored in events:
            self._append_to_ring(stored)
        self._forget_unused()

    def appear(self) -> None:
        """Forget that there was no state: a whole one has just become durable."""
        self._state.clear()
        self._forget_members()

    def _forget_members(self) -> None:
        self._local_users = None
        self._joined_count = None
        self.membership_changes += 1

    def _commit_membership(self, user_id: UserID, pdu: Pdu | None) -> None:
        self.membership_changes += 1
        self._joined_count = None
        if self._local_users is None or server_name_of(user_id) != self._server_name:
            return
        if pdu is not None and pdu.content.get("membership") == "join":
            # A new set: readers may be iterating over the old one.
            self._local_users = self._local_users | {user_id}
        else:
            self._local_users = self._local_users - {user_id}

    def _append_to_ring(self, event: StoredEvent) -> None:
        if self.ring_from == LATEST:
            self.ring_from = event.pos - 1
        self.ring.append(event)
        self._ring_bytes += len(event.client)
        while self._ring_bytes > RING_BYTES and len(self.ring) > 1:
            oldest = self.ring.popleft()
            self._ring_bytes -= len(oldest.client)
            self.ring_from = oldest.pos
        self.last_pos = event.pos

    def redacted(self, event_id: str, key: StateKey | None) -> None:
        """Forget the original of an event that has just been redacted."""
        for index, event in enumerate(self.ring):
            if event.event_id == event_id:
                self.ring[index] = replace(event, flags=event.flags | REDACTED)
        if key is not None:
            self._state.pop(key, None)

    def purged(self, nids: AbstractSet[int]) -> None:
        """Forget events that have just left the history."""
        kept = [event for event in self.ring if event.nid not in nids]
        self.ring = deque(kept)
        self._ring_bytes = sum(len(event.client) for event in kept)
        self.last_pos = 0

    async def reload(self, lane: Lane) -> None:
        """Begin anew from the database after a job of `lane` failed. Hold the lock."""
        if self.lane is not lane:
            return
        stored = await stored_rooms.find_room(self._db, self.room_id)
        assert stored is not None, "rooms are never removed while they are loaded"
        self.committed = self.tail = Head(stored.extremities, stored.ver)
        self._state.clear()
        self._tail_state.clear()
        self._forget_members()
        self.ring.clear()
        self._ring_bytes = 0
        self.ring_from = LATEST
        self.last_pos = 0
        self.last_job = None
        self.line_head = None
        self.lane = Lane()
