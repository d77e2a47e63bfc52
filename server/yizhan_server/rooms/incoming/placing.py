"""Giving verified events their place: in the DAG, the state log and the stream.

What follows the room's ends and leaves nothing open is placed by `runs`, many events in one job.
Any other stands beside the end, or has to be looked at: it is stored first, with the state after it
but without a position, so that state resolution can read it; then it gets its position, together
with what the room's ends, resolved anew, make of the current state. A crash between the two
leaves an event that its server will send again, and that is shown before what follows it.

Spec: server-server API, "Checks performed on receipt of a PDU", 4 to 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from yizhan_database import (
    Database,
    DatabaseUnavailable,
    GuardFailed,
    Lane,
    StatementRefused,
    Transaction,
)
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.rooms.extremities import next_extremities
from yizhan_server.rooms.incoming.current_state import changes_by_ends
from yizhan_server.rooms.incoming.judgement import (
    AuthEventsMissing,
    check_by_state,
    judge_by_auth_events,
)
from yizhan_server.rooms.incoming.runs import (
    Parts,
    Run,
    begin_run,
    prune_if_awaited,
    show_pruned,
)
from yizhan_server.rooms.merging import Resolver, merge
from yizhan_server.rooms.point_state import PointState
from yizhan_server.rooms.policy_servers import PolicyServers, Question
from yizhan_server.rooms.recording import Batch, Recorder, settled
from yizhan_server.rooms.redactions import find_remote_target, is_redaction
from yizhan_server.rooms.room import Room, StateChanges, StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import Merge, point_after, point_of_merge
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import GAP, REDACTED, REJECTED, SOFT_FAILED, KnownPdu
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.rooms import Extremity
from yizhan_server.storage.state import Point, StateKey

log = logging.getLogger(__name__)

ATTEMPTS = 10


class Outcome(Enum):
    """What became of an event."""

    ACCEPTED = "live, or it was before"
    SOFT_FAILED = "kept, but the current state, or the policy server, does not permit it"
    REJECTED = "kept, but never to be used"
    UNPLACEABLE = "events that it refers to are missing"


@dataclass(frozen=True, slots=True)
class _Terms:
    """What holds for all events of one call."""

    flags: int
    asked: Collection[Question]
    also: Callable[[Transaction], None] | None


class Placing:
    """Judges events by the states of their room, and places them."""

    def __init__(
        self,
        db: Database,
        keys: StateKeys,
        numbers: Numbers,
        recorder: Recorder,
        resolver: Resolver,
        policies: PolicyServers,
    ) -> None:
        self._db = db
        self._keys = keys
        self._numbers = numbers
        self._recorder = recorder
        self._resolver = resolver
        self._policies = policies
        self._parts = Parts(db, keys, numbers, recorder, policies)

    async def place(
        self,
        room: Room,
        pdus: Sequence[Pdu],
        after_gap: frozenset[EventID] = frozenset(),
        *,
        flags: int = 0,
        asked: Collection[Question] = (),
        also: Callable[[Transaction], None] | None = None,
    ) -> dict[EventID, Outcome]:
        """Place events, each after those that it refers to. What is answered is durable.

        `after_gap`: those before which events remain unknown. `flags` is LOCAL for events that
        this server passes on to the others in the room. `also` adds to the job that shows the
        events; it is for a single one. No network is used: what follows an event that lacks the
        signature of a policy server has no outcome, unless that server has been `asked`.
        """
        terms = _Terms(flags, asked, also)
        outcomes: dict[EventID, Outcome] = {}
        for _ in range(ATTEMPTS):
            async with room.lock:
                lane = room.lane
                try:
                    await self._place_all(room, pdus, after_gap, outcomes, terms)
                except GuardFailed:
                    # Another worker was faster; what is durable is found again.
                    await self._begin_anew(room, lane)
                    outcomes.clear()
                    continue
                except (DatabaseUnavailable, StatementRefused):
                    await self._begin_anew(room, lane)
                    raise
                return outcomes
        raise DatabaseUnavailable("the room is too busy")

    async def _begin_anew(self, room: Room, lane: Lane) -> None:
        self._keys.forget_pending()
        await room.reload(lane)

    async def _place_all(
        self,
        room: Room,
        pdus: Sequence[Pdu],
        after_gap: frozenset[EventID],
        outcomes: dict[EventID, Outcome],
        terms: _Terms,
    ) -> None:
        run: Run | None = None
        ids = [pdu.event_id for pdu in pdus]
        known = await stored_events.known_pdus(self._db, room.nid, ids, room.version)
        taken = await stored_events.taken_ids(self._db, room.nid, ids, room.version)
        for event_id in taken:
            outcomes[event_id] = Outcome.UNPLACEABLE
        pdus = [pdu for pdu in pdus if pdu.event_id not in taken]
        for at, pdu in enumerate(pdus):
            standing = _standing(known.get(pdu.event_id))
            if standing is not None:
                outcomes[pdu.event_id] = standing
                continue
            is_after_gap = pdu.event_id in after_gap
            if run is None or is_after_gap or not run.goes_on_with(pdu):
                await self._finish(run, terms)
                run = None if is_after_gap else await begin_run(self._parts, room, pdus[at:])
            if run is not None and await run.take(pdu, known, terms.flags):
                outcomes[pdu.event_id] = Outcome.ACCEPTED
                continue
            await self._finish(run, terms)
            run = None
            await settled(room)
            known |= await stored_events.known_pdus(
                self._db, room.nid, {pdu.event_id, *pdu.auth_events}, room.version
            )
            its_terms = replace(terms, flags=terms.flags | (GAP if is_after_gap else 0))
            outcome = await self._place_beside(room, pdu, known, its_terms)
            if outcome is None:
                return
            outcomes[pdu.event_id] = outcome
        await self._finish(run, terms)

    async def _finish(self, run: Run | None, terms: _Terms) -> None:
        if run is not None and run.batch.written:
            await asyncio.shield(self._recorder.submit(run.batch, terms.also))

    async def _place_beside(
        self, room: Room, pdu: Pdu, known: dict[EventID, KnownPdu], terms: _Terms
    ) -> Outcome | None:
        """Judge and place an event that does not follow the room's end. All is durable.

        None where its policy server has to be asked first.
        """
        version = room.version
        if not pdu.prev_events:
            # Only a create event follows nothing, and a room that is here has its own.
            return Outcome.UNPLACEABLE
        prevs = await stored_events.known_pdus(self._db, room.nid, pdu.prev_events, version)
        if len(prevs) < len(set(pdu.prev_events)) or not all(p.is_placed for p in prevs.values()):
            return Outcome.UNPLACEABLE
        before = await merge(self._resolver, room, [_point(each) for each in prevs.values()])
        state = PointState(self._db, self._keys, version, before)
        stored = known.get(pdu.event_id)
        try:
            create = await state.event(("m.room.create", ""))
            await judge_by_auth_events(
                self._db, room.nid, pdu, known, None if create is None else create.pdu, version
            )
            await check_by_state(state.event, pdu, version)
        except AuthEventsMissing:
            return Outcome.UNPLACEABLE
        except AuthRuleRejection as rejection:
            _log_refused("event rejected", pdu, rejection)
            await self._store_beside(room, pdu, stored, before, REJECTED)
            return Outcome.REJECTED
        outcome = await self._outcome_now(room, pdu, state, terms.asked)
        if outcome is Outcome.SOFT_FAILED:
            await self._store_beside(room, pdu, stored, before, SOFT_FAILED)
        if outcome is not Outcome.ACCEPTED:
            return outcome
        nid, point = await self._store_beside(room, pdu, stored, before, terms.flags)
        # It may have been redacted while it was here only for what it permits.
        flags = terms.flags | (0 if stored is None else stored.flags & REDACTED)
        known[pdu.event_id] = KnownPdu(nid, None, point.line, point.seq, flags, pdu)
        await self._show_beside(room, pdu, known[pdu.event_id], prevs, state, terms.also)
        return Outcome.ACCEPTED

    async def _outcome_now(
        self, room: Room, pdu: Pdu, state: PointState, asked: Collection[Question]
    ) -> Outcome | None:
        """Say what becomes of an event that the `state` before it permits; None as above."""
        if is_redaction(pdu) and await find_remote_target(self._db, room, pdu, state.event) is None:
            log.info("redaction that nothing permits", extra={"event_id": pdu.event_id})
            return Outcome.SOFT_FAILED
        if not room.committed.extremities:
            return Outcome.ACCEPTED

        async def current(key: StateKey) -> StateEvent | None:
            return await room.state_event(*key)

        try:
            await check_by_state(current, pdu, room.version)
        except AuthRuleRejection as rejection:
            _log_refused("event soft-failed", pdu, rejection)
            return Outcome.SOFT_FAILED
        if is_redaction(pdu) and await find_remote_target(self._db, room, pdu, current) is None:
            # Permitted where it stands: whoever was a moderator may still choose such a place.
            log.info("redaction soft-failed", extra={"event_id": pdu.event_id})
            return Outcome.SOFT_FAILED
        policy = await self._policies.lacking(room, pdu, current)
        if policy is None:
            return Outcome.ACCEPTED
        if Question(pdu.event_id, policy) not in asked:
            return None
        log.info("event soft-failed", extra={"event_id": pdu.event_id, "rule": "policy_server"})
        return Outcome.SOFT_FAILED

    async def _store_beside(
        self, room: Room, pdu: Pdu, stored: KnownPdu | None, before: Merge, flags: int
    ) -> tuple[int, Point]:
        """Make an event durable with the state after it, and without a position."""
        tx = Transaction()
        if stored is not None and stored.line is not None and stored.seq is not None:
            if stored.is_begun and flags & (REJECTED | SOFT_FAILED):
                stored_events.add_flags(tx, stored.nid, flags)
                await self._db.commit(tx)
            return stored.nid, Point(stored.line, stored.seq)
        point = await point_of_merge(self._db, self._numbers, tx, room.nid, before)
        nid = await self._numbers.next("event") if stored is None else stored.nid
        if pdu.state_key is not None and not flags & REJECTED:
            key = await self._keys.intern(tx, pdu.key)
            point = await point_after(
                self._db, self._numbers, tx, room.nid, point,
                # A soft-failed event must not take the place that the room's end continues.
                is_line_head=True if before.changes else (False if flags & SOFT_FAILED else None),
            )  # fmt: skip
            stored_state.append_state(tx, point, {key: nid})
        await self._keep(tx, room, pdu, stored, point, flags, nid)
        await self._db.commit(tx)
        return nid, point

    async def _keep(
        self,
        tx: Transaction,
        room: Room,
        pdu: Pdu,
        stored: KnownPdu | None,
        point: Point,
        flags: int,
        nid: int | None = None,
    ) -> None:
        """Record an event without a position."""
        if stored is not None:
            stored_events.note_place(tx, stored.nid, point.line, point.seq, flags)
            return
        if nid is None:
            nid = await self._numbers.next("event")
        client, rest = stored_events.split_pdu(pdu)
        stored_events.append_event(
            tx, nid=nid, room=room.nid, pos=None, pdu=pdu, line=point.line, seq=point.seq,
            relation=stored_events.relation_of(pdu.content), flags=flags, client=client, rest=rest,
        )  # fmt: skip

    async def _show_beside(
        self,
        room: Room,
        pdu: Pdu,
        stored: KnownPdu,
        prevs: Mapping[EventID, KnownPdu],
        state: PointState,
        also: Callable[[Transaction], None] | None,
    ) -> None:
        """Give a stored event its position, and the room its new ends and current state."""
        point = _point(stored)
        own = Extremity(stored.nid, pdu.event_id, pdu.depth, point.line, point.seq)
        is_awaited = bool(await stored_edges.are_missing(self._db, room.nid, [pdu.event_id]))
        extremities = await next_extremities(self._db, room, own, prevs)
        if is_awaited:
            # Something here follows it already: it is no end, nor is what it follows.
            extremities = extremities[:-1] or room.tail.extremities
        changes: StateChanges = {}
        if extremities != room.tail.extremities:
            changes = await changes_by_ends(self._db, self._keys, self._resolver, room, extremities)
        batch = Batch(room, Transaction(room.lane), room.tail, point)
        stored_edges.delete_missing(batch.tx, room.nid, pdu.event_id)
        target = await find_remote_target(self._db, room, pdu, state.event)
        flags = stored.flags | (
            show_pruned(batch, pdu)
            if stored.flags & REDACTED
            else await prune_if_awaited(self._db, self._keys, batch, pdu)
        )
        await self._recorder.place(
            batch, pdu, stored.nid, point, changes, extremities, flags=flags, target=target
        )
        await asyncio.shield(self._recorder.submit(batch, also))


def _standing(known: KnownPdu | None) -> Outcome | None:
    """Return what became of an event before; None for one that has yet to be placed."""
    if known is None:
        return None
    if known.flags & REJECTED:
        return Outcome.REJECTED
    if known.flags & SOFT_FAILED:
        return Outcome.SOFT_FAILED
    return Outcome.ACCEPTED if known.pos is not None and known.pos > 0 else None


def _point(known: KnownPdu) -> Point:
    assert known.line is not None, "only placed events are merged"
    assert known.seq is not None, "only placed events are merged"
    return Point(known.line, known.seq)


def _log_refused(what: str, pdu: Pdu, rejection: AuthRuleRejection) -> None:
    log.info(what, extra={"event_id": pdu.event_id, "room_id": pdu.room_id, "rule": rejection.rule})
