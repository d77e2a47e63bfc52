"""Taking over a room that another server let us into: its state, and our join at its end.

Until the last step the room is not here for anybody; the events that were stored on the way are
outliers, which a second attempt finds again.

Spec: server-server API, "Joining Rooms".
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from yizhan_database import Database, Transaction
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, server_name_of
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.extremities import MAX_EXTREMITIES
from yizhan_server.rooms.incoming.current_state import changes_by_ends
from yizhan_server.rooms.incoming.judgement import check_by_state
from yizhan_server.rooms.incoming.state_intake import Stated
from yizhan_server.rooms.merging import Resolver
from yizhan_server.rooms.recording import Batch, Recorder, settled
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import LATEST, Room, StateChanges, StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import Merge, point_after, point_of_merge
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import invitations as stored_invitations
from yizhan_server.storage import out_of_band as stored_changes
from yizhan_server.storage import purging as stored_purging
from yizhan_server.storage import room_servers as stored_servers
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import GAP
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.rooms import Extremity
from yizhan_server.storage.state import REMOVED, Point, StateKey

FORGOTTEN_AT_ONCE = 200
"""Events that one commit forgets."""


class StrangeRoom(Exception):
    """What was told of a room is no room of its kind."""


class Adoption:
    """Makes rooms of other servers our own."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        keys: StateKeys,
        numbers: Numbers,
        recorder: Recorder,
        resolver: Resolver,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._keys = keys
        self._numbers = numbers
        self._recorder = recorder
        self._resolver = resolver
        self._coming: set[int] = set()
        """Rooms whose state is being taken; of one, one at a time."""

    async def known_room(self, room_id: str, version: RoomVersion) -> Room:
        """Return a room of which nothing but its ID need be known; it has no events then."""
        room = await self._rooms.find(room_id)
        if room is None:
            nid = await self._numbers.next("room")
            tx = Transaction()
            stored_rooms.create_known_room(tx, nid, room_id, version.identifier)
            await self._db.commit(tx)
            room = await self._rooms.get(room_id)
        return room

    @contextmanager
    def coming(self, room: Room) -> Iterator[None]:
        """Forget nothing of a room whose state is being taken while the block lasts."""
        self._coming.add(room.nid)
        try:
            yield
        finally:
            self._coming.discard(room.nid)

    async def correct_version(self, room: Room, version: RoomVersion) -> bool:
        """Know a room of which nothing is here as one of another version; whether it is now.

        What was said of it under the wrong one is forgotten: invitations and outliers. Not while
        a join needs them.
        """
        async with room.lock:
            if room.committed.extremities or room.nid in self._coming:
                return room.version is version
            await self._forget_invitations(room)
            while events := await stored_purging.any_events(self._db, room.nid, FORGOTTEN_AT_ONCE):
                tx = Transaction()
                stored_purging.delete_events(tx, self._db, room.nid, events)
                await self._db.commit(tx)
            tx = Transaction()
            stored_rooms.correct_version(tx, room.nid, version.identifier)
            await self._db.commit(tx)
            room.version = version
        return True

    async def _forget_invitations(self, room: Room) -> None:
        tx = Transaction()
        stored_rooms.delete_memberships(tx, room.nid)
        stored_invitations.delete_states(tx, room.nid)
        stored_changes.delete_changes(tx, room.nid)
        await self._db.commit(tx)

    async def adopt(
        self,
        room: Room,
        join: Pdu,
        state: Mapping[StateKey, Stated],
        version: RoomVersion,
        *,
        keep_ends: bool = False,
    ) -> None:
        """Show the room with `join` as its last event and `state` before it.

        `state` holds stored events that are not rejected. AuthRuleRejection when it does not
        permit the join, StrangeRoom when it is not that of such a room. A room that was here
        before goes on, with a gap. With `keep_ends` the join stands beside what was known of it,
        and need not prevail.
        """

        async def state_event(key: StateKey) -> StateEvent | None:
            stated = state.get(key)
            if stated is None:
                return None
            pdus = await stored_events.pdus_by_nid(self._db, [stated.nid], version)
            pdu = pdus.get(stated.nid)
            return None if pdu is None else StateEvent(stated.nid, pdu)

        create = await state_event(("m.room.create", ""))
        if create is None:
            raise StrangeRoom("a room without its create event")
        if create.pdu.content.get("room_version", "1") != version.identifier:
            raise StrangeRoom("the create event names another room version")
        await check_by_state(state_event, join, version)
        async with room.lock:
            if room.version is not version:
                raise StrangeRoom("another version has been proven meanwhile")
            await settled(room)
            keys = await self._keys.intern_all([*state, join.key])
            numbers = {keys[key]: stated.nid for key, stated in state.items()}
            tx = Transaction()
            before, is_line_head = await self._place_before(tx, room, numbers)
            point = await point_after(
                self._db, self._numbers, tx, room.nid, before, is_line_head=is_line_head
            )
            nid = await self._store(tx, room, join, point)
            stored_state.append_state(tx, point, {keys[join.key]: nid})
            missing = await self._missing_before(room, join)
            await self._db.commit(tx)
            is_new = not room.committed.extremities
            own = Extremity(nid, join.event_id, join.depth, point.line, point.seq)
            ends: tuple[Extremity, ...] = (own,)
            changes: StateChanges
            if keep_ends:
                ends = (*room.tail.extremities[: MAX_EXTREMITIES - 1], own)
                changes = await changes_by_ends(self._db, self._keys, self._resolver, room, ends)
            else:
                changes = {} if is_new else await self._changes(room, numbers)
                changes[join.key] = StateEvent(nid, join)
            batch = Batch(room, Transaction(room.lane), room.tail, point)
            await self._recorder.place(
                batch, join, nid, point, changes, ends, flags=GAP, target=None
            )
            if is_new:
                self._begin_current_state(batch, before, keys[join.key], join.key, state)

            def also(tx: Transaction) -> None:
                # Not before: whoever is invited still sees to what after a crash.
                stored_invitations.delete_state(tx, room.nid, join.key[1])
                stored_edges.append_missing(tx, room.nid, missing, join.depth)

            await asyncio.shield(self._recorder.submit(batch, also))

    def _begin_current_state(
        self,
        batch: Batch,
        before: Point,
        joined: int,
        join: StateKey,
        state: Mapping[StateKey, Stated],
    ) -> None:
        """Record the whole state of a room that is new here, but for the join, as its current one.

        There may be tens of thousands of members, so what is recorded is made of few words.
        """
        room, tx, pos = batch.room, batch.tx, batch.written[0][0]
        stored_state.begin_current_state(tx, room.nid, pos, before, joined)
        members = {
            user_id: stated
            for (kind, user_id), stated in state.items()
            if kind == "m.room.member" and (kind, user_id) != join
        }
        stored_rooms.replace_memberships(
            tx, room.nid,
            (
                (user_id, stated.membership or "leave", stated.sender, stated.nid)
                for user_id, stated in members.items()
            ),
            pos,
        )  # fmt: skip
        servers = Counter(
            server_name_of(user_id)
            for user_id, stated in members.items()
            if stated.membership == "join"
        )
        counts = {str(server): joined for server, joined in servers.items() if server is not None}
        stored_servers.append_members(tx, room.nid, counts, pos)
        tx.after_commit(lambda _: room.appear())

    async def _place_before(
        self, tx: Transaction, room: Room, numbers: Mapping[int, int]
    ) -> tuple[Point, bool | None]:
        """Return a place with the whole state, and whether it ends its line (None: unknown)."""
        if not room.committed.extremities:
            line = await self._numbers.next("state_line")
            stored_state.open_line(tx, line, room.nid, None, 0)
            stored_state.append_state(tx, Point(line, 1), numbers)
            return Point(line, 1), True
        end = room.committed.extremities[0]
        base = Point(end.line, end.seq)
        here = await stored_state.full_state_at(self._db, base)
        changes = {key: nid for key, nid in numbers.items() if here.get(key) != nid}
        changes |= {key: REMOVED for key in here if key not in numbers}
        merged = Merge(base, changes)
        point = await point_of_merge(self._db, self._numbers, tx, room.nid, merged)
        return point, True if changes else None

    async def _store(self, tx: Transaction, room: Room, join: Pdu, point: Point) -> int:
        """Record the join, which has no position yet, with the state after it."""
        stored = await stored_events.known_pdus(self._db, room.nid, [join.event_id], room.version)
        if join.event_id in stored:
            nid = stored[join.event_id].nid
            stored_events.note_place(tx, nid, point.line, point.seq, GAP)
            return nid
        nid = await self._numbers.next("event")
        client, rest = stored_events.split_pdu(join)
        stored_events.append_event(
            tx, nid=nid, room=room.nid, pos=None, pdu=join, line=point.line, seq=point.seq,
            relation=stored_events.relation_of(join.content), flags=GAP, client=client, rest=rest,
        )  # fmt: skip
        return nid

    async def _missing_before(self, room: Room, join: Pdu) -> list[EventID]:
        """Return the events before the join that nobody here can see."""
        known = await stored_events.known_pdus(self._db, room.nid, join.prev_events, room.version)
        return [
            event_id
            for event_id in join.prev_events
            if event_id not in known or known[event_id].pos is None
        ]

    async def _changes(self, room: Room, numbers: Mapping[int, int]) -> StateChanges:
        """Return how the current state of a room that was here differs from `numbers`."""
        here = await stored_state.current_state(self._db, room.nid, LATEST)
        changed = {key: nid for key, nid in numbers.items() if here.get(key) != nid}
        changed |= {key: REMOVED for key in here if key not in numbers}
        names = await stored_state.keys_by_nid(self._db, list(changed))
        pdus = await stored_events.pdus_by_nid(
            self._db, [nid for nid in changed.values() if nid], room.version
        )
        return {
            names[key]: StateEvent(nid, pdus[nid]) if nid else None for key, nid in changed.items()
        }
