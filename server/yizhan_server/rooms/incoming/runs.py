"""Placing many events in one job: those that come where the room ends, and leave nothing open.

What such an event follows is an end of the room, so that the state before it is known and durable,
or is what the job has built. It is taken if its own auth events are just what that state has for
it, so that one look decides both of the checks. Where anything else is to be said of an event,
`take` says no, and `placing` deals with it alone.

A run is the events of one job. There are two kinds: what follows all ends continues what is built,
state and messages alike. Where the room has several ends, as after a time in which servers did not
hear one another, a message that follows one of them leaves the states that the room is resolved of
as they are: nothing changes but the end itself.

Spec: server-server API, "Checks performed on receipt of a PDU", 4 to 7.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from typing_extensions import override

from yizhan_database import Database, Transaction
from yizhan_server.protocol.auth_rules import check_auth
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.rooms.incoming.judgement import CREATE, permitting_state
from yizhan_server.rooms.point_state import PointState
from yizhan_server.rooms.policy_servers import PolicyServers
from yizhan_server.rooms.power import StateSource
from yizhan_server.rooms.recording import Batch, Recorder, settled
from yizhan_server.rooms.redactions import (
    RedactionTarget,
    find_remote_target,
    find_waiting_redaction,
    is_redaction,
)
from yizhan_server.rooms.room import Head, Room, StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import Merge
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.events import REDACTED, KnownPdu
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.rooms import Extremity
from yizhan_server.storage.state import Point, StateKey


@dataclass(frozen=True, slots=True)
class Parts:
    """What placing an event takes."""

    db: Database
    keys: StateKeys
    numbers: Numbers
    recorder: Recorder
    policies: PolicyServers


class Run(ABC):
    """Events of one job, each judged after what the job has built. Hold the room's lock."""

    def __init__(self, parts: Parts, batch: Batch, redacted: set[str]) -> None:
        self._parts = parts
        self.batch = batch
        self._redacted = redacted
        """Those of the coming events that a redaction waits for."""

    def goes_on_with(self, pdu: Pdu) -> bool:
        """Whether an event can be judged, and shown, together with what is built."""
        return self._follows(pdu) and not _is_entangled(self.batch, pdu)

    async def take(self, pdu: Pdu, known: dict[EventID, KnownPdu], flags: int) -> bool:
        """Record an event with which this goes on; False where it needs a closer look."""
        parts, batch = self._parts, self.batch
        before = self._before(pdu)
        state = await permitting_state(before, pdu, batch.room.version)
        if not await self._is_permitted(pdu, state):
            return False
        target = await find_remote_target(parts.db, batch.room, pdu, before)
        if target is None and is_redaction(pdu):
            return False
        stored = known.get(pdu.event_id)
        nid = await parts.numbers.next("event") if stored is None else stored.nid
        if stored is not None and stored.flags & REDACTED:
            flags |= show_pruned(batch, pdu)
        elif pdu.event_id in self._redacted:
            flags |= await prune_if_awaited(parts.db, parts.keys, batch, pdu)
        point = await self._record(
            pdu, nid, flags=flags, target=target, is_stored=stored is not None
        )
        # Live once the job is done; at which position, nobody asks.
        known[pdu.event_id] = KnownPdu(nid, 1, point.line, point.seq, flags, pdu)
        return True

    @abstractmethod
    def _follows(self, pdu: Pdu) -> bool:
        """Whether an event follows what this kind of run goes on from."""

    @abstractmethod
    def _before(self, pdu: Pdu) -> StateSource:
        """Give the state before an event that follows."""

    @abstractmethod
    async def _record(
        self, pdu: Pdu, nid: int, *, flags: int, target: RedactionTarget | None, is_stored: bool
    ) -> Point:
        """Record an event that nothing is to be said against; return the place of its state."""

    async def _is_permitted(self, pdu: Pdu, state: dict[StateKey, Pdu]) -> bool:
        """Whether all checks permit an event without any doubt; `state` is what permits it."""
        room = self.batch.room
        expected = [
            event.event_id
            for key, event in state.items()
            if key != CREATE or room.version.create_is_auth_event
        ]
        if sorted(expected) != sorted(pdu.auth_events) or not _permits(state, pdu, room):
            return False
        return await self._parts.policies.lacking(room, pdu, self.batch.state_event) is None


class Continuation(Run):
    """Events each of which follows everything built; of state also."""

    @override
    def _follows(self, pdu: Pdu) -> bool:
        return follows_all_ends(pdu, self.batch.head)

    @override
    def _before(self, pdu: Pdu) -> StateSource:
        return self.batch.state_event

    @override
    async def _record(
        self, pdu: Pdu, nid: int, *, flags: int, target: RedactionTarget | None, is_stored: bool
    ) -> Point:
        await self._parts.recorder.record(
            self.batch, pdu, flags=flags, target=target, nid=nid, is_stored=is_stored
        )
        return self.batch.point


class Branches(Run):
    """Messages each of which takes the place of the end that it follows, among several.

    The state after it is the one before it, which is that of the end. So the room is resolved of
    the same states as before, and its current state remains. An event of state would change one of
    them: resolution has to read it, and it is stored first.
    """

    def __init__(self, parts: Parts, batch: Batch, redacted: set[str], awaited: set[str]) -> None:
        super().__init__(parts, batch, redacted)
        self._awaited = awaited
        """Those of the coming events that something here follows already: they are no ends."""
        self._states: dict[Point, _KeptState] = {}

    @override
    def _follows(self, pdu: Pdu) -> bool:
        return follows_an_end(pdu, self.batch.head) and pdu.event_id not in self._awaited

    @override
    def _before(self, pdu: Pdu) -> StateSource:
        point = _place_before(pdu, self.batch.head)
        if point not in self._states:
            parts, version = self._parts, self.batch.room.version
            state = PointState(parts.db, parts.keys, version, Merge(point))
            self._states[point] = _KeptState(state)
        return self._states[point].event

    @override
    async def _is_permitted(self, pdu: Pdu, state: dict[StateKey, Pdu]) -> bool:
        if not await super()._is_permitted(pdu, state):
            return False
        room = self.batch.room
        current = await permitting_state(self.batch.state_event, pdu, room.version)
        if _ids(current) == _ids(state):
            return True
        # What a redaction may prune depends on the power that its sender has by now.
        return not is_redaction(pdu) and _permits(current, pdu, room)

    @override
    async def _record(
        self, pdu: Pdu, nid: int, *, flags: int, target: RedactionTarget | None, is_stored: bool
    ) -> Point:
        head = self.batch.head
        point = _place_before(pdu, head)
        kept = [each for each in head.extremities if each.event_id not in pdu.prev_events]
        own = Extremity(nid, pdu.event_id, pdu.depth, point.line, point.seq)
        await self._parts.recorder.place(
            self.batch, pdu, nid, point, {}, (*kept, own),
            flags=flags, target=target, is_stored=is_stored,
        )  # fmt: skip
        return point


class _KeptState:
    """The state at a place, as far as it has been read; good for one job under the room's lock."""

    def __init__(self, state: PointState) -> None:
        self._state = state
        self._read: dict[StateKey, StateEvent | None] = {}

    async def event(self, key: StateKey) -> StateEvent | None:
        if key not in self._read:
            self._read[key] = await self._state.event(key)
        return self._read[key]


async def begin_run(parts: Parts, room: Room, coming: Iterable[Pdu]) -> Run | None:
    """Begin a run with the first of the coming events; None if it has to be placed alone."""
    coming = list(coming)
    first = coming[0]
    is_beside = follows_an_end(first, room.tail)
    if not is_beside and not follows_all_ends(first, room.tail):
        return None
    ids = [pdu.event_id for pdu in coming]
    redacted = await stored_events.awaited_by_redactions(parts.db, ids)
    if not is_beside:
        return Continuation(parts, await parts.recorder.begin(room), redacted)
    # The states of the ends are read from the database.
    await settled(room)
    awaited = await stored_edges.are_missing(parts.db, room.nid, ids)
    end = room.tail.extremities[0]
    batch = Batch(room, Transaction(room.lane), room.tail, Point(end.line, end.seq))
    run = Branches(parts, batch, redacted, awaited)
    return run if run.goes_on_with(first) else None


def follows_all_ends(pdu: Pdu, head: Head) -> bool:
    """Whether an event refers to all ends of the room, and to nothing else."""
    ends = {extremity.event_id for extremity in head.extremities}
    return bool(ends) and set(pdu.prev_events) == ends


def follows_an_end(pdu: Pdu, head: Head) -> bool:
    """Whether a message refers to some ends of the room, of one state, and to nothing else."""
    ends = _ends_before(pdu, head)
    return (
        pdu.state_key is None
        and 0 < len(ends) < len(head.extremities)
        and len(ends) == len(set(pdu.prev_events))
        and len(_places(ends)) == 1
    )


async def prune_if_awaited(db: Database, keys: StateKeys, batch: Batch, pdu: Pdu) -> int:
    """Apply the redaction that came before its target `pdu`; returns the flag for it."""
    redaction = await find_waiting_redaction(db, keys, batch.room, pdu)
    if redaction is None:
        return 0
    stored_events.apply_redaction(batch.tx, pdu.event_id, redaction)
    return show_pruned(batch, pdu)


def show_pruned(batch: Batch, pdu: Pdu) -> int:
    """Have an event that is being placed be shown as redacted; returns the flag for it."""
    batch.redacted.append((pdu.event_id, pdu.key if pdu.is_state else None))
    return REDACTED


def _is_entangled(batch: Batch, pdu: Pdu) -> bool:
    """Whether an event is redacted by one of a batch or redacts one, or may be judged by such.

    Redactions are found, and read, in the database: what is built has to be durable first.
    """
    return (
        pdu.redacts in batch.event_ids
        or pdu.event_id in batch.waiting_redactions
        or any(key is not None for _, key in batch.redacted)
    )


def _ends_before(pdu: Pdu, head: Head) -> list[Extremity]:
    return [each for each in head.extremities if each.event_id in pdu.prev_events]


def _places(ends: Iterable[Extremity]) -> set[Point]:
    return {Point(each.line, each.seq) for each in ends}


def _place_before(pdu: Pdu, head: Head) -> Point:
    (point,) = _places(_ends_before(pdu, head))
    return point


def _permits(state: dict[StateKey, Pdu], pdu: Pdu, room: Room) -> bool:
    try:
        check_auth(pdu, state, room.version)
    except AuthRuleRejection:
        return False
    return True


def _ids(state: dict[StateKey, Pdu]) -> dict[StateKey, EventID]:
    return {key: event.event_id for key, event in state.items()}
