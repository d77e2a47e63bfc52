"""Events that authorise others and have no place in the DAG themselves: outliers.

Spec: server-server API, "Checks performed on receipt of a PDU", 4; "Rejection".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from yizhan_database import Database, Transaction
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
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
        events cannot be had is left out, and so is whatever depends on it.
        """
        given = {pdu.event_id: pdu for pdu in pdus}
        named = {event_id for pdu in given.values() for event_id in _authority(pdu, version)}
        known = await stored_events.known_pdus(self._db, room, named | given.keys(), version)
        create = _create_of(given, known)
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
            await self._store(room, fresh[start : start + CHUNK])
        if fresh:
            # Where another worker stored some of them first, its numbers hold.
            known |= await stored_events.known_pdus(self._db, room, given.keys(), version)
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
            for key in replaced.keys() - rejected.keys():
                usable.setdefault(key, replaced[key])
        return usable

    async def _store(self, room: int, fresh: Sequence[KnownPdu]) -> None:
        tx = Transaction()
        for each in fresh:
            client, rest = stored_events.split_pdu(each.pdu)
            stored_events.append_event(
                tx, nid=each.nid, room=room, pos=None, pdu=each.pdu, line=None, seq=None,
                relation=stored_events.relation_of(each.pdu.content), flags=each.flags,
                client=client, rest=rest,
            )  # fmt: skip
        await self._db.commit(tx)


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
