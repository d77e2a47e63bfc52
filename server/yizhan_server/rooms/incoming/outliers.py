"""Events that authorise others and have no place in the DAG themselves: outliers.

Spec: server-server API, "Checks performed on receipt of a PDU", 4; "Rejection".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from yizhan_database import Database, Transaction
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.incoming.judgement import AuthEventsMissing, judge_by_auth_events
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.events import REJECTED, KnownPdu
from yizhan_server.storage.numbers import Numbers

log = logging.getLogger(__name__)

CHUNK = 400
"""Events of one job, so that other writers are not held up for long."""


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
        named = {event_id for pdu in given.values() for event_id in pdu.auth_events}
        known = await stored_events.known_pdus(self._db, room, named | given.keys(), version)
        create = _create_of(given, known)
        fresh: list[KnownPdu] = []
        for pdu in sorted_by_auth(given):
            if pdu.event_id in known:
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


def _create_of(given: Mapping[EventID, Pdu], known: Mapping[EventID, KnownPdu]) -> Pdu | None:
    """Return the create event, for room versions whose events do not name it."""
    for pdu in [*given.values(), *(each.pdu for each in known.values())]:
        if pdu.type == "m.room.create":
            return pdu
    return None


def sorted_by_auth(given: Mapping[EventID, Pdu]) -> list[Pdu]:
    """Return the events so that each comes after those that authorise it."""
    edges = {
        event_id: [each for each in pdu.auth_events if each in given]
        for event_id, pdu in given.items()
    }
    try:
        return [given[event_id] for event_id in TopologicalSorter(edges).static_order()]
    except CycleError:
        # Only made-up events of versions 1 and 2 can name each other; none of them is usable.
        return []
