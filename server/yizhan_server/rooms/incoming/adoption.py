"""Taking over a room that another server let us into: its state, and our join at its end.

Until the last step the room is not here for anybody; the events that were stored on the way are
outliers, which a second attempt finds again.

Spec: server-server API, "Joining Rooms".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from yizhan_database import Database, Transaction
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.extremities import MAX_EXTREMITIES
from yizhan_server.rooms.incoming.current_state import changes_by_ends
from yizhan_server.rooms.incoming.judgement import check_by_state
from yizhan_server.rooms.merging import Resolver
from yizhan_server.rooms.recording import Batch, Recorder, settled
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import LATEST, Room, StateChanges, StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import Merge, point_after, point_of_merge
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import invitations as stored_invitations
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import GAP, KnownPdu
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.rooms import Extremity
from yizhan_server.storage.state import REMOVED, Point, StateKey


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

    async def adopt(
        self,
        room: Room,
        join: Pdu,
        state: Mapping[StateKey, KnownPdu],
        *,
        keep_ends: bool = False,
    ) -> None:
        """Show the room with `join` as its last event and `state` before it.

        `state` holds stored events that are not rejected. AuthRuleRejection when it does not
        permit the join. A room that was here before goes on, with a gap. With `keep_ends` the
        join stands beside what was known of it, and need not prevail.
        """

        async def state_event(key: StateKey) -> StateEvent | None:
            known = state.get(key)
            return None if known is None else StateEvent(known.nid, known.pdu)

        await check_by_state(state_event, join, room.version)
        async with room.lock:
            await settled(room)
            nid = await self._numbers.next("event")
            numbers = await self._intern(state)
            tx = Transaction()
            before, is_line_head = await self._place_before(tx, room, numbers)
            point = await point_after(
                self._db, self._numbers, tx, room.nid, before, is_line_head=is_line_head
            )
            stored = await stored_events.known_pdus(
                self._db, room.nid, [join.event_id], room.version
            )
            if join.event_id in stored:
                nid = stored[join.event_id].nid
                stored_events.note_place(tx, nid, point.line, point.seq, GAP)
            else:
                await self._append(tx, room, join, nid, point)
            key = await self._keys.intern(tx, join.key)
            stored_state.append_state(tx, point, {key: nid})
            known = await stored_events.known_pdus(
                self._db, room.nid, join.prev_events, room.version
            )
            missing = [
                event_id
                for event_id in join.prev_events
                if event_id not in known or known[event_id].pos is None
            ]
            await self._db.commit(tx)
            own = Extremity(nid, join.event_id, join.depth, point.line, point.seq)
            ends: tuple[Extremity, ...] = (own,)
            if keep_ends:
                ends = (*room.tail.extremities[: MAX_EXTREMITIES - 1], own)
                changes = await changes_by_ends(self._db, self._keys, self._resolver, room, ends)
            else:
                changes = await self._changes(room, state)
                changes[join.key] = StateEvent(nid, join)
            batch = Batch(room, Transaction(room.lane), room.tail, point)
            await self._recorder.place(
                batch, join, nid, point, changes, ends, flags=GAP, target=None
            )

            def also(tx: Transaction) -> None:
                # Not before: whoever is invited still sees to what after a crash.
                stored_invitations.delete_state(tx, room.nid, join.key[1])
                stored_edges.append_missing(tx, room.nid, missing, join.depth)

            await asyncio.shield(self._recorder.submit(batch, also))

    async def _intern(self, state: Mapping[StateKey, KnownPdu]) -> dict[int, int]:
        """Return the state by the numbers of its keys, all of them durable."""
        tx = Transaction()
        numbers = {await self._keys.intern(tx, key): known.nid for key, known in state.items()}
        if tx.operations:
            await self._db.commit(tx)
        return numbers

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

    async def _append(self, tx: Transaction, room: Room, join: Pdu, nid: int, point: Point) -> None:
        client, rest = stored_events.split_pdu(join)
        stored_events.append_event(
            tx, nid=nid, room=room.nid, pos=None, pdu=join, line=point.line, seq=point.seq,
            relation=stored_events.relation_of(join.content), flags=GAP, client=client, rest=rest,
        )  # fmt: skip

    async def _changes(self, room: Room, state: Mapping[StateKey, KnownPdu]) -> StateChanges:
        """Return how the current state, if there is one, differs from `state`."""
        current = await stored_state.current_state(self._db, room.nid, LATEST)
        names = await stored_state.keys_by_nid(self._db, list(current))
        here = {names[key]: nid for key, nid in current.items()}
        changes: StateChanges = {
            key: StateEvent(known.nid, known.pdu)
            for key, known in state.items()
            if here.get(key) != known.nid
        }
        changes.update((key, None) for key in here if key not in state)
        return changes
