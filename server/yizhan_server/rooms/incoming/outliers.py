"""Events that authorise others and have no place in the DAG themselves: outliers.

Spec: server-server API, "Checks performed on receipt of a PDU", 4; "Rejection".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from yizhan_database import Database, Transaction
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, RoomID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.incoming.judgement import AuthEventsMissing, judge_by_auth_events
from yizhan_server.rooms.incoming.ordering import sorted_by_auth
from yizhan_server.rooms.turns import Turns
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.events import REJECTED, KnownPdu
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import StateKey

log = logging.getLogger(__name__)

CHUNK = 400
"""Events of one job, so that other writers are not held up for long."""

MAX_STEPS = 10
"""Rejected events, one named by another, that are looked behind."""


class Outliers:
    """Judges events by those that they name, and keeps them."""

    def __init__(self, db: Database, numbers: Numbers) -> None:
        self._db = db
        self._numbers = numbers

    async def keep(
        self, room: int, version: RoomVersion, pdus: Iterable[Pdu]
    ) -> dict[EventID, KnownPdu]:
        """Store verified events and return all that are kept now, rejected ones included.

        Each is judged by its auth events, which are among `pdus` or here already. One whose auth
        events cannot be had is left out, and so is whatever depends on it; also one whose ID an
        event of another room has.
        """
        given = {pdu.event_id: pdu for pdu in pdus}
        for event_id in await stored_events.taken_ids(self._db, room, given, version):
            del given[event_id]
        named = {event_id for pdu in given.values() for event_id in _authority(pdu, version)}
        known = await stored_events.known_pdus(self._db, room, named | given.keys(), version)
        create = _create_of(given, known)
        if create is None and version.room_id_is_create_hash and given:
            create_id = create_of_room(next(iter(given.values())).room_id)
            found = await stored_events.known_pdus(self._db, room, [create_id], version)
            if create_id not in found:
                return {}  # whatever is said of such a room, its create event permits it
            create = found[create_id].pdu
        fresh: list[KnownPdu] = []
        turns = Turns()
        for pdu in sorted_by_auth(given):
            await turns.offer()
            if pdu.event_id in known:
                continue
            if create is None and not _names_create(pdu, version):
                # It may well be right: without the event that made the room nothing can be said.
                continue
            try:
                flags = 0
                await judge_by_auth_events(self._db, room, pdu, known, create, version)
            except AuthEventsMissing:
                continue
            except AuthRuleRejection as rejection:
                flags = REJECTED
                log.info(
                    "event rejected",
                    extra={
                        "event_id": pdu.event_id,
                        "room_id": pdu.room_id,
                        "rule": rejection.rule,
                    },
                )
            nid = await self._numbers.next("event")
            known[pdu.event_id] = KnownPdu(nid, None, None, None, flags, pdu)
            fresh.append(known[pdu.event_id])
        for start in range(0, len(fresh), CHUNK):
            chunk = fresh[start : start + CHUNK]
            for each in chunk:
                del known[each.pdu.event_id]
            known |= await self._store(room, chunk)
        return {event_id: known[event_id] for event_id in given if event_id in known}

    async def usable_state(
        self, room: int, version: RoomVersion, told: Iterable[KnownPdu]
    ) -> dict[StateKey, KnownPdu]:
        """Return what may be used of a state that another server tells, by what it sets.

        "The state should be calculated as normal, except not updating with the rejected event":
        what such an event would have replaced still holds. It is among its auth events, if it is
        about power levels or a member; the others authorise nothing, and are left out. Were the
        levels left out because of somebody's vain attempt at them, nobody would have any power.
        """
        usable: dict[StateKey, KnownPdu] = {}
        rejected: dict[StateKey, KnownPdu] = {}
        for each in told:
            if each.pdu.is_state:
                part = rejected if each.flags & REJECTED else usable
                part[each.pdu.key] = each
        return await self.behind_rejected(room, version, rejected) | usable

    async def behind_rejected(
        self, room: int, version: RoomVersion, rejected: dict[StateKey, KnownPdu]
    ) -> dict[StateKey, KnownPdu]:
        """Return what rejected state events would have replaced, as far as it shows."""
        behind: dict[StateKey, KnownPdu] = {}
        for _ in range(MAX_STEPS):
            if not rejected:
                break
            named = {event_id for each in rejected.values() for event_id in each.pdu.auth_events}
            known = await stored_events.known_pdus(self._db, room, named, version)
            replaced = {
                key: known[event_id]
                for key, each in rejected.items()
                for event_id in each.pdu.auth_events
                if event_id in known and known[event_id].pdu.is_state
                if known[event_id].pdu.key == key
            }
            rejected = {key: each for key, each in replaced.items() if each.flags & REJECTED}
            behind |= {key: replaced[key] for key in replaced.keys() - rejected.keys()}
        return behind

    async def _store(self, room: int, fresh: Sequence[KnownPdu]) -> dict[EventID, KnownPdu]:
        """Make events durable; returns them as they are now."""
        tx = Transaction()
        stored_events.append_outliers(
            tx, room, [(each.nid, each.pdu, each.flags) for each in fresh]
        )
        await self._db.commit(tx)
        # Where somebody else stored some of them first, those numbers hold; not those of a room
        # in which another event has the same ID.
        event_ids = [each.pdu.event_id for each in fresh]
        there = await stored_events.standings(self._db, room, event_ids)
        found = {}
        for each in fresh:
            if each.pdu.event_id in there:
                nid, flags = there[each.pdu.event_id]
                found[each.pdu.event_id] = replace(each, nid=nid, flags=flags)
        return found


def _names_create(pdu: Pdu, version: RoomVersion) -> bool:
    return version.create_is_auth_event or pdu.type == "m.room.create"


def _authority(pdu: Pdu, version: RoomVersion) -> list[EventID]:
    """Return the events that an event is judged by.

    Since v12 it does not name the one that made the room: the room's ID does.
    """
    if _names_create(pdu, version):
        return list(pdu.auth_events)
    return [*pdu.auth_events, EventID("$" + pdu.room_id[1:])]


def _create_of(given: Mapping[EventID, Pdu], known: Mapping[EventID, KnownPdu]) -> Pdu | None:
    """Return the create event, for room versions whose events do not name it."""
    for pdu in [*given.values(), *(each.pdu for each in known.values())]:
        if pdu.type == "m.room.create":
            return pdu
    return None


def create_of_room(room_id: RoomID) -> EventID:
    """Return the create event of a room that is named by its hash."""
    return EventID("$" + room_id[1:])
