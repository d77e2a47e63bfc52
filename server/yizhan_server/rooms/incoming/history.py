"""Events from before what this server has seen of a room: history.

They have negative positions: whoever pages back sees them, /sync never does. Of most of them only
their own auth events are judged; the state after one is found out where it is needed, which is at
the edge of a gap.

Spec: server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from yizhan_database import Database, Transaction
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, server_name_of
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.incoming.judgement import (
    CREATE,
    AuthEventsMissing,
    check_by_auth_events,
    check_by_state,
    judge_by_auth_events,
)
from yizhan_server.rooms.incoming.ordering import sorted_by_auth
from yizhan_server.rooms.point_state import PointState
from yizhan_server.rooms.power import StateSource
from yizhan_server.rooms.recording import settled
from yizhan_server.rooms.redactions import (
    find_remote_target,
    find_waiting_redaction,
    may_redact_now,
)
from yizhan_server.rooms.room import Room, StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import Merge, point_after, point_of_merge
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REDACTED, REJECTED, SOFT_FAILED, KnownPdu
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import REMOVED, Point, StateKey

log = logging.getLogger(__name__)

NEVER_SHOWN = REJECTED | SOFT_FAILED


class History:
    """Places events behind everything live."""

    def __init__(self, db: Database, keys: StateKeys, numbers: Numbers) -> None:
        self._db = db
        self._keys = keys
        self._numbers = numbers

    async def append(self, room: Room, pdus: Iterable[Pdu]) -> int:
        """Keep verified events that somebody's history lacks, latest first; returns how many.

        Those that are here already, or that their own auth events do not permit, are left out.
        """
        given = {pdu.event_id: pdu for pdu in pdus}
        for event_id in await stored_events.taken_ids(self._db, room.nid, given, room.version):
            del given[event_id]
        named = {event_id for pdu in given.values() for event_id in pdu.auth_events}
        async with room.lock:
            known = await stored_events.known_pdus(
                self._db, room.nid, named | given.keys(), room.version
            )
            create = await room.state_event(*CREATE)
            refused = _refused(given, known, None if create is None else create.pdu, room.version)
            tx = Transaction()
            count = 0
            for pdu in given.values():
                stored = known.get(pdu.event_id)
                if stored is not None and (stored.pos is not None or stored.flags & NEVER_SHOWN):
                    stored_edges.delete_missing(tx, room.nid, pdu.event_id)
                elif pdu.event_id not in refused:
                    nid = await self._store(tx, room, pdu, stored, None)
                    state = _authorising(pdu, given, known, create)
                    await self._redact(tx, room, pdu, nid, state)
                    count += 1
                elif refused[pdu.event_id]:
                    # No other server's answer would change that; what is before it remains
                    # to be asked for.
                    stored_edges.delete_missing(tx, room.nid, pdu.event_id)
            await self._note_edges(tx, room, given.values())
            await self._db.commit(tx)
        return count

    async def place_at_edge(self, room: Room, edge: Pdu, before: Mapping[StateKey, int]) -> None:
        """Keep an event with the state before it, as another server has told it."""
        async with room.lock:
            await settled(room)
            known = await stored_events.known_pdus(
                self._db, room.nid, {edge.event_id, *edge.auth_events}, room.version
            )
            stored = known.get(edge.event_id)
            if stored is not None and stored.is_placed:
                return
            if await stored_events.taken_ids(self._db, room.nid, [edge.event_id], room.version):
                return
            tx = Transaction()
            numbers = {await self._keys.intern(tx, key): nid for key, nid in before.items()}
            if tx.operations:
                await self._db.commit(tx)
                tx = Transaction()
            merged = await self._difference(room, numbers)
            state = PointState(self._db, self._keys, room.version, merged)
            flags = 0 if stored is None else stored.flags
            try:
                create = await state.event(CREATE)
                await judge_by_auth_events(
                    self._db, room.nid, edge, known, None if create is None else create.pdu,
                    room.version,
                )  # fmt: skip
                await check_by_state(state.event, edge, room.version)
            except AuthEventsMissing:
                log.info("history event refused", extra={"event_id": edge.event_id})
                return
            except AuthRuleRejection as rejection:
                # Those that follow it may be right all the same.
                flags = REJECTED
                log.info(
                    "event rejected",
                    extra={
                        "event_id": edge.event_id,
                        "room_id": room.room_id,
                        "rule": rejection.rule,
                    },
                )
            point = await point_of_merge(self._db, self._numbers, tx, room.nid, merged)
            nid = await self._numbers.next("event") if stored is None else stored.nid
            if edge.state_key is not None and not flags & REJECTED:
                key = await self._keys.intern(tx, edge.key)
                point = await point_after(
                    self._db, self._numbers, tx, room.nid, point,
                    is_line_head=bool(merged.changes),
                )  # fmt: skip
                stored_state.append_state(tx, point, {key: nid})
            if flags & REJECTED:
                await self._store_rejected(tx, room, edge, stored, point, nid)
            else:
                await self._store(tx, room, edge, stored, point, nid)
                await self._redact(tx, room, edge, nid, state.event)
                await self._note_edges(tx, room, [edge])
            await self._db.commit(tx)

    async def _difference(self, room: Room, wanted: Mapping[int, int]) -> Merge:
        """Return a whole state as a difference to the one at the room's end."""
        end = room.committed.extremities[0]
        base = Point(end.line, end.seq)
        here = await stored_state.full_state_at(self._db, base)
        changes = {key: nid for key, nid in wanted.items() if here.get(key) != nid}
        changes |= {key: REMOVED for key in here if key not in wanted}
        return Merge(base, changes)

    async def _store(
        self,
        tx: Transaction,
        room: Room,
        pdu: Pdu,
        stored: KnownPdu | None,
        point: Point | None,
        nid: int | None = None,
    ) -> int:
        pos = -await self._numbers.next("history")
        line, seq = (None, None) if point is None else (point.line, point.seq)
        stored_edges.delete_missing(tx, room.nid, pdu.event_id)
        if stored is not None:
            stored_events.place_in_history(tx, stored.nid, pos, line, seq)
            return stored.nid
        if nid is None:
            nid = await self._numbers.next("event")
        flags = 0
        redaction = await find_waiting_redaction(self._db, self._keys, room, pdu)
        if redaction is not None:
            stored_events.apply_redaction(tx, pdu.event_id, redaction)
            flags = REDACTED
        client, rest = stored_events.split_pdu(pdu)
        stored_events.append_event(
            tx, nid=nid, room=room.nid, pos=pos, pdu=pdu, line=line, seq=seq,
            relation=stored_events.relation_of(pdu.content), flags=flags, client=client, rest=rest,
        )  # fmt: skip
        return nid

    async def _store_rejected(
        self,
        tx: Transaction,
        room: Room,
        pdu: Pdu,
        stored: KnownPdu | None,
        point: Point,
        nid: int,
    ) -> None:
        """Keep an event that nobody sees, with the state that it leaves as it was."""
        if stored is not None:
            stored_events.note_place(tx, nid, point.line, point.seq, REJECTED)
            return
        client, rest = stored_events.split_pdu(pdu)
        stored_events.append_event(
            tx, nid=nid, room=room.nid, pos=None, pdu=pdu, line=point.line, seq=point.seq,
            relation=stored_events.relation_of(pdu.content), flags=REJECTED,
            client=client, rest=rest,
        )  # fmt: skip

    async def _redact(
        self, tx: Transaction, room: Room, pdu: Pdu, nid: int, state: StateSource
    ) -> None:
        """Apply a redaction to an event that is here already, if `state` permits it.

        What is not here comes pruned from those who have the redaction.
        """
        target = await find_remote_target(self._db, room, pdu, state)
        if target is None or target.event is None:
            return
        if server_name_of(pdu.sender) != server_name_of(target.event.sender) and (
            await _was_sent_away(room, pdu.sender)
            or not await may_redact_now(self._db, room, pdu, target.event)
        ):
            # Live, it would fail softly. Whoever tells of the past may have made it up just now.
            return
        stored_events.mark_redacted(tx, target.event.nid)
        stored_events.append_redaction(tx, target=target.event_id, event=nid, applied=True)
        event_id, key = target.event_id, target.state_key
        tx.after_commit(lambda _: room.redacted(event_id, key))

    async def _note_edges(self, tx: Transaction, room: Room, pdus: Iterable[Pdu]) -> None:
        """Record which events before these are not here."""
        given = {pdu.event_id: pdu for pdu in pdus}
        before = {event_id for pdu in given.values() for event_id in pdu.prev_events}
        known = await stored_events.known_pdus(self._db, room.nid, before, room.version)
        here = given.keys() | {key for key, each in known.items() if each.pos is not None}
        for pdu in given.values():
            missing = [event_id for event_id in pdu.prev_events if event_id not in here]
            stored_edges.append_missing(tx, room.nid, missing, pdu.depth)


async def _was_sent_away(room: Room, user_id: str) -> bool:
    """Whether somebody is banned, or was removed by somebody else and has not come back."""
    member = await room.state_event("m.room.member", user_id)
    return member is not None and member.pdu.membership != "join" and member.pdu.sender != user_id


def _authorising(
    pdu: Pdu,
    given: Mapping[EventID, Pdu],
    known: Mapping[EventID, KnownPdu],
    create: StateEvent | None,
) -> StateSource:
    """Give the auth events of an event, by what they set; and the create event in any case."""
    named = [
        known[event_id].pdu if event_id in known else given.get(event_id)
        for event_id in pdu.auth_events
    ]
    found = {each.key: each for each in named if each is not None and each.is_state}

    async def state(key: StateKey) -> StateEvent | None:
        if key == CREATE:
            return create
        return StateEvent(0, found[key]) if key in found else None

    return state


def _refused(
    given: Mapping[EventID, Pdu],
    known: Mapping[EventID, KnownPdu],
    create: Pdu | None,
    version: RoomVersion,
) -> dict[EventID, bool]:
    """Return which of the events are not to be kept, and whether that is for good.

    They may authorise one another. Those that are here already have been judged.
    """
    judged, refused = dict(known), {}
    for pdu in sorted_by_auth(given):
        if pdu.event_id in known:
            continue
        flags = 0
        try:
            check_by_auth_events(pdu, judged, create, version)
        except AuthEventsMissing:
            refused[pdu.event_id] = False
            continue
        except AuthRuleRejection as rejection:
            refused[pdu.event_id], flags = True, REJECTED
            log.info(
                "history event refused", extra={"event_id": pdu.event_id, "rule": rejection.rule}
            )
        judged[pdu.event_id] = KnownPdu(0, None, None, None, flags, pdu)
    return {
        # What has not been judged refers to itself.
        event_id: refused.get(event_id, True)
        for event_id in given
        if event_id in refused or event_id not in judged
    }
