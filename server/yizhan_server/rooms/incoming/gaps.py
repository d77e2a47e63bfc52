"""Fetching what events refer to and what is not here. The only step that uses the network.

Missing events before an event are asked for by its sender's server, and are live: they close the
gap. Where a gap remains, the room's state at its edge is fetched instead; what lies behind the
edge is history, for those who page back.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving event
authorization information".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from yizhan_database import Database
from yizhan_server.federation_client.answers import RawPdu
from yizhan_server.federation_client.errors import RemoteFailure, RemoteUnavailable
from yizhan_server.federation_client.events import EventRequests
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, ServerName
from yizhan_server.rooms.incoming.history import History
from yizhan_server.rooms.incoming.ordering import sorted_by_references
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

MAX_MISSING = 20_000
"""Events of a state that may be missing. Whoever is in a room has most of its state."""

MAX_CHAINS = 5
"""Auth chains that are fetched to close one gap. The last event's mostly holds the others'."""

LARGE_AT_ONCE = 2
"""Auth chains and states that are in memory, of all rooms, and one at most of a server."""


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
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._of_server: WeakValueDictionary[ServerName, asyncio.Lock] = WeakValueDictionary()

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
        floor = None
        for _ in range(ROUNDS):
            missing, begun = await self._before(room, found.values())
            if begun:
                found |= begun
                continue
            if not missing:
                break
            if floor is None:
                # What is older than all that is known here is history: a newcomer's /sync is not
                # to show it as if it had just happened.
                floor = await stored_edges.lowest_depth(self._db, room.nid)
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
        missing = (await self._before(room, found.values()))[0] - withheld
        after_gap = frozenset(
            event_id for event_id, pdu in found.items() if missing & set(pdu.prev_events)
        )
        for event_id in sorted(missing)[:MAX_EDGES]:
            await self._anchor(origin, room, event_id, patient=patient)
        await self.fetch_auth_events(origin, room, found.values(), patient=patient)
        return sorted_by_references(found), after_gap

    async def fetch_auth_events(
        self, origin: ServerName, room: Room, pdus: Iterable[Pdu], *, patient: bool = False
    ) -> None:
        """Store the auth events that some of `pdus` name and that are neither here nor given."""
        given = {pdu.event_id: pdu for pdu in pdus}
        named = {event_id for pdu in given.values() for event_id in pdu.auth_events}
        unknown = named - given.keys()
        unknown -= await stored_events.known_ids(self._db, room.nid, unknown)
        unknown -= await stored_events.of_other_rooms(self._db, room.nid, unknown)
        for _ in range(MAX_CHAINS):
            wanting = next((p for p in given.values() if unknown & set(p.auth_events)), None)
            if wanting is None:
                return
            try:
                async with self._one_large(origin):
                    raws = await self._requests.event_auth(origin, room.room_id, wanting.event_id)
                    chain = await self._verification.parsed(raws, room.version, room.room_id)
                    here = await stored_events.known_ids(
                        self._db, room.nid, [pdu.event_id for pdu in chain]
                    )
                    fresh = [pdu for pdu in chain if pdu.event_id not in here]
                    kept = await self._keep(room, fresh, patient=patient)
            except RemoteFailure as failure:
                log.info("auth events not obtained", extra={"why": str(failure)})
                _give_up(failure, patient=patient)
                return
            unknown -= {*kept, *wanting.auth_events}

    async def _before(
        self, room: Room, pdus: Iterable[Pdu]
    ) -> tuple[set[EventID], dict[EventID, Pdu]]:
        """Return the events that some of `pdus` follow and whose state is not known here.

        Then those that were about to be shown when this server crashed.
        """
        given = {pdu.event_id: pdu for pdu in pdus}
        named = {event_id for pdu in given.values() for event_id in pdu.prev_events} - given.keys()
        # Most follow what was last here, of which the database need not be asked.
        named -= {EventID(each.event_id) for each in room.committed.extremities}
        known = await self._known(room, named)
        begun = {event_id: each.pdu for event_id, each in known.items() if each.is_begun}
        placed = {event_id for event_id, each in known.items() if each.is_placed}
        return named - placed - begun.keys(), begun

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
        return await self._verification.verified(
            raws[:PER_ROUND], room.version, room.room_id, patient=patient
        )

    async def _anchor(
        self, origin: ServerName, room: Room, event_id: EventID, *, patient: bool
    ) -> None:
        """Find out the state after an event at the edge of a gap, as `origin` has it."""
        try:
            ids = await self._requests.state_ids(origin, room.room_id, event_id)
            edge = await self._fetch(origin, room, event_id, patient=patient)
            wanted = {EventID(each) for each in ids.pdu_ids}
            named = wanted | {EventID(each) for each in ids.auth_chain_ids}
            missing = named - await stored_events.known_ids(self._db, room.nid, named)
            if len(missing) > MAX_MISSING:
                log.info("state too large", extra={"event_id": event_id, "missing": len(missing)})
                return
            await self._fetch_missing(origin, room, event_id, missing, patient=patient)
        except RemoteFailure as failure:
            log.info("state not obtained", extra={"event_id": event_id, "why": str(failure)})
            _give_up(failure, patient=patient)
            return
        if edge is None:
            return
        await self.fetch_auth_events(origin, room, [edge], patient=patient)
        known = await self._known(room, wanted)
        usable = await self._outliers.usable_state(room.nid, room.version, known.values())
        await self._history.place_at_edge(
            room, edge, {key: each.nid for key, each in usable.items()}
        )

    async def _fetch_missing(
        self,
        origin: ServerName,
        room: Room,
        event_id: EventID,
        missing: Collection[EventID],
        *,
        patient: bool,
    ) -> None:
        """Store those events of the state before an event, and of its auth chain, that are missing.

        What a server gives besides was not asked for.
        """
        if len(missing) <= ONE_BY_ONE:
            raws = [await self._requests.event(origin, each) for each in sorted(missing)]
            await self._keep(room, await self._parsed(room, raws, missing), patient=patient)
            return
        async with self._one_large(origin):
            state = await self._requests.state(origin, room.room_id, event_id)
            raws = [*state.auth_chain, *state.pdus]
            await self._keep(room, await self._parsed(room, raws, missing), patient=patient)

    async def _parsed(
        self, room: Room, raws: Sequence[RawPdu], only: Collection[EventID]
    ) -> list[Pdu]:
        return await self._verification.parsed(raws, room.version, room.room_id, only=only)

    async def _keep(self, room: Room, pdus: Sequence[Pdu], *, patient: bool) -> Collection[EventID]:
        """Verify events and store them; return which of them are kept."""
        events = await self._verification.signed(pdus, room.version, patient=patient)
        return (await self._outliers.keep(room.nid, room.version, events)).keys()

    @asynccontextmanager
    async def _one_large(self, server: ServerName) -> AsyncIterator[None]:
        """Wait until there is memory for a large answer, and for what becomes of it."""
        # Its own lock first: a server that answers slowly in many rooms takes one place only.
        async with self._of_server.setdefault(server, asyncio.Lock()), self._large:
            yield

    async def _fetch(
        self, origin: ServerName, room: Room, event_id: EventID, *, patient: bool
    ) -> Pdu | None:
        known = await self._known(room, [event_id])
        if event_id in known:
            return known[event_id].pdu
        raw = await self._requests.event(origin, event_id)
        found = await self._verification.verified(
            [raw], room.version, room.room_id, patient=patient
        )
        return found[0] if found and found[0].event_id == event_id else None


def _give_up(failure: RemoteFailure, *, patient: bool) -> None:
    """Raise a failure that is no answer, where somebody has the patience to ask again."""
    if patient and isinstance(failure, RemoteUnavailable):
        raise failure
