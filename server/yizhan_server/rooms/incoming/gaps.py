"""Fetching what events refer to and what is not here. The only step that uses the network.

Missing events before an event are asked for by its sender's server, and are live: they close the
gap. Where a gap remains, the room's state at its edge is fetched instead; what lies behind the
edge is history, for those who page back.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving event
authorization information".
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

from yizhan_database import Database
from yizhan_server.federation_client.errors import RemoteFailure, RemoteUnavailable
from yizhan_server.federation_client.events import EventRequests
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, ServerName
from yizhan_server.rooms.incoming.history import History
from yizhan_server.rooms.incoming.outliers import Outliers
from yizhan_server.rooms.incoming.verification import Verification
from yizhan_server.rooms.room import Room
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events

log = logging.getLogger(__name__)

ROUNDS = 5
PER_ROUND = 20
"""Events that are fetched to close one gap: rounds, and in each. A longer gap stays one."""

MAX_EDGES = 5
"""Edges of one gap at which the state is fetched."""

ONE_BY_ONE = 30
"""Missing state events that are fetched by themselves; of more, the whole state at once."""


class Gaps:
    """Closes gaps, or finds out the state behind them."""

    def __init__(
        self,
        db: Database,
        requests: EventRequests,
        verification: Verification,
        outliers: Outliers,
        history: History,
    ) -> None:
        self._db = db
        self._requests = requests
        self._verification = verification
        self._outliers = outliers
        self._history = history

    async def closed(
        self, origin: ServerName, room: Room, pdus: Sequence[Pdu], *, patient: bool = False
    ) -> tuple[list[Pdu], frozenset[EventID]]:
        """Return `pdus` with the events missing before them, in order, and those after a gap.

        Everything that their auth events and the states at the edges need is stored. With
        `patient`, RemoteUnavailable when `origin` does not answer; else it is done without.
        """
        found = {pdu.event_id: pdu for pdu in pdus}
        latest = list(found)
        withheld: set[EventID] = set()
        # What is older than all that is known here is history: a newcomer's /sync is not to show
        # it as if it had just happened.
        floor = await stored_edges.lowest_depth(self._db, room.nid)
        for _ in range(ROUNDS):
            missing = await self._missing_before(room, found.values())
            if not missing:
                break
            fetched = await self._fetch_before(origin, room, latest, floor, patient=patient)
            new = [
                pdu
                for pdu in fetched or ()
                if pdu.event_id not in found and pdu.depth >= floor and pdu.prev_events
            ]
            fresh = await self._needed(room, missing, new)
            if not fresh:
                if floor and fetched == []:
                    # What it was not asked for, it did not withhold.
                    fetched = await self._fetch_before(origin, room, latest, 0, patient=patient)
                if fetched == [] and len(found) == len(pdus):
                    # It has what its own event follows, and does not show it: nothing that it
                    # says of the state there is worth more.
                    withheld = missing
                break
            found |= fresh
            latest = list(fresh)
        missing = await self._missing_before(room, found.values()) - withheld
        after_gap = frozenset(
            event_id for event_id, pdu in found.items() if missing & set(pdu.prev_events)
        )
        for event_id in sorted(missing)[:MAX_EDGES]:
            await self._anchor(origin, room, event_id, patient=patient)
        await self.fetch_auth_events(origin, room, found.values(), patient=patient)
        return _in_order(found), after_gap

    async def fetch_auth_events(
        self, origin: ServerName, room: Room, pdus: Iterable[Pdu], *, patient: bool = False
    ) -> None:
        """Store the auth events that some of `pdus` name and that are neither here nor given."""
        given = {pdu.event_id: pdu for pdu in pdus}
        named = {event_id for pdu in given.values() for event_id in pdu.auth_events}
        unknown = named - given.keys()
        unknown -= (await self._known(room, unknown)).keys()
        unknown -= await stored_events.of_other_rooms(self._db, room.nid, unknown)
        while unknown:
            wanting = next(pdu for pdu in given.values() if unknown & set(pdu.auth_events))
            try:
                raws = await self._requests.event_auth(origin, room.room_id, wanting.event_id)
            except RemoteFailure as failure:
                log.info("auth events not obtained", extra={"why": str(failure)})
                _give_up(failure, patient=patient)
                return
            chain = await self._verification.verified(raws, room.version, room.room_id)
            kept = await self._outliers.keep(room.nid, room.version, chain)
            left = unknown - kept.keys() - set(wanting.auth_events)
            unknown = left

    async def _missing_before(self, room: Room, pdus: Iterable[Pdu]) -> set[EventID]:
        """Return the events that some of `pdus` follow and whose state is not known here."""
        given = {pdu.event_id: pdu for pdu in pdus}
        named = {event_id for pdu in given.values() for event_id in pdu.prev_events}
        known = await self._known(room, named)
        placed = {event_id for event_id, each in known.items() if each.is_placed}
        return named - given.keys() - placed

    async def _known(
        self, room: Room, event_ids: Collection[EventID]
    ) -> dict[EventID, stored_events.KnownPdu]:
        return await stored_events.known_pdus(self._db, room.nid, event_ids, room.version)

    async def _needed(
        self, room: Room, missing: Collection[EventID], fetched: Iterable[Pdu]
    ) -> dict[EventID, Pdu]:
        """Return those of `fetched` that are missing, and what is not placed before them.

        A server that answers by the letter gives more where the room has forked: its way back
        passes by the room's end here, and goes on with what has long been known.
        """
        given = {pdu.event_id: pdu for pdu in fetched}
        known = await self._known(room, given)
        needed: dict[EventID, Pdu] = {}
        queue = list(missing)
        while queue:
            event_id = queue.pop()
            is_placed = event_id in known and known[event_id].is_placed
            if event_id in given and event_id not in needed and not is_placed:
                needed[event_id] = given[event_id]
                queue += given[event_id].prev_events
        return needed

    async def _fetch_before(
        self, origin: ServerName, room: Room, latest: list[EventID], floor: int, *, patient: bool
    ) -> list[Pdu] | None:
        """Return events before `latest` from `floor` on; None if the server did not answer."""
        earliest = [EventID(each.event_id) for each in room.committed.extremities]
        try:
            raws = await self._requests.missing_events(
                origin, room.room_id,
                earliest=earliest, latest=latest, limit=PER_ROUND, min_depth=floor,
            )  # fmt: skip
        except RemoteFailure as failure:
            log.info("missing events not obtained", extra={"why": str(failure)})
            _give_up(failure, patient=patient)
            return None
        return await self._verification.verified(raws[:PER_ROUND], room.version, room.room_id)

    async def _anchor(
        self, origin: ServerName, room: Room, event_id: EventID, *, patient: bool
    ) -> None:
        """Find out the state after an event at the edge of a gap, as `origin` has it."""
        try:
            ids = await self._requests.state_ids(origin, room.room_id, event_id)
            edge = await self._fetch(origin, room, event_id)
            wanted = {EventID(each) for each in ids.pdu_ids}
            missing = (wanted | {EventID(each) for each in ids.auth_chain_ids}) - {
                *await self._known(room, wanted | {EventID(each) for each in ids.auth_chain_ids})
            }
            if len(missing) > ONE_BY_ONE:
                state = await self._requests.state(origin, room.room_id, event_id)
                raws = [*state.auth_chain, *state.pdus]
            else:
                raws = [await self._requests.event(origin, each) for each in sorted(missing)]
        except RemoteFailure as failure:
            log.info("state not obtained", extra={"event_id": event_id, "why": str(failure)})
            _give_up(failure, patient=patient)
            return
        if edge is None:
            return
        events = await self._verification.verified(raws, room.version, room.room_id)
        await self._outliers.keep(room.nid, room.version, events)
        await self.fetch_auth_events(origin, room, [edge], patient=patient)
        known = await self._known(room, wanted)
        usable = await self._outliers.usable_state(room.nid, room.version, known.values())
        await self._history.place_at_edge(
            room, edge, {key: each.nid for key, each in usable.items()}
        )

    async def _fetch(self, origin: ServerName, room: Room, event_id: EventID) -> Pdu | None:
        known = await self._known(room, [event_id])
        if event_id in known:
            return known[event_id].pdu
        raw = await self._requests.event(origin, event_id)
        found = await self._verification.verified([raw], room.version, room.room_id)
        return found[0] if found and found[0].event_id == event_id else None


def _give_up(failure: RemoteFailure, *, patient: bool) -> None:
    """Raise a failure that is no answer, where somebody has the patience to ask again."""
    if patient and isinstance(failure, RemoteUnavailable):
        raise failure


def _in_order(found: dict[EventID, Pdu]) -> list[Pdu]:
    """Return the events so that each comes after those that it refers to."""
    edges = {
        event_id: [each for each in (*pdu.prev_events, *pdu.auth_events) if each in found]
        for event_id, pdu in found.items()
    }
    try:
        return [found[event_id] for event_id in TopologicalSorter(edges).static_order()]
    except CycleError:
        # Only made-up events of versions 1 and 2 can refer to each other; none of them is usable.
        return []
