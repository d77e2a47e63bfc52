"""What other servers fetch of a room: events, their auth chains, states, and what lies between.

Spec: server-server API, "Retrieving event authorization information", "Backfilling and retrieving
missing events", "Retrieving events" (also by time).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from yizhan_database import Database
from yizhan_server.protocol.errors import NotFound, TooLarge
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.rooms.auth_chains import AuthChains
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import RoomOfServer, ServerAccess
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REJECTED, KnownPdu, StoredEvent
from yizhan_server.storage.state import Point

MAX_BACKFILL = 100
MAX_MISSING = 20
MAX_WALKED = 2000
"""Events looked at for one answer; rejected ones are no part of it, and may be any number."""
MAX_CHAIN = 100_000
MAX_PAGES_BY_TIME = 50


@dataclass(frozen=True, slots=True)
class StateBefore:
    """Numbers of the events of a state, and of its auth chain."""

    state: list[int]
    auth_chain: list[int]


class ServingEvents:
    """Answers servers that share a room with this one."""

    def __init__(self, db: Database, access: ServerAccess, chains: AuthChains) -> None:
        self._db = db
        self._access = access
        self._chains = chains

    async def auth_chain(self, of: RoomOfServer, event_id: str) -> list[Pdu]:
        """Return the auth chain of an event."""
        event = await self._access.get_room_event(of, event_id)
        known = await stored_events.known_pdus(
            self._db, of.room.nid, event.pdu.auth_events, of.room.version
        )
        named = [each.nid for each in known.values()]
        chain = await self._chain(of.room, named)
        return await self.pdus(of.room, {*chain, *named})

    async def state_before(self, of: RoomOfServer, event_id: str) -> StateBefore:
        """Return the state before an event with its auth chain; M_NOT_FOUND if unknown."""
        event = await self._access.get_room_event(of, event_id)
        if event.line is None or event.seq is None or event.flags & REJECTED:
            raise NotFound("The state at this event is not known")
        # The state after a state event is one place further than that before it.
        before = event.seq - int(event.pdu.is_state)
        return await self.state_at(of.room, Point(event.line, before))

    async def state_at(self, room: Room, point: Point) -> StateBefore:
        """Return the state at a place, with its auth chain."""
        state = list((await stored_state.full_state_at(self._db, point)).values())
        return StateBefore(state, sorted(await self._chain(room, state)))

    async def _chain(self, room: Room, nids: Collection[int]) -> set[int]:
        chain = await self._chains.ancestors(room.nid, nids, limit=MAX_CHAIN)
        if chain is None:
            raise TooLarge("The auth chain is longer than what this server gives")
        return chain

    async def pdus(self, room: Room, nids: Collection[int]) -> list[Pdu]:
        """Return events by their numbers."""
        found = await stored_events.pdus_by_nid(self._db, list(nids), room.version)
        return list(found.values())

    async def event_ids(self, nids: Collection[int]) -> list[str]:
        """Return the IDs of events."""
        return await stored_events.event_ids(self._db, list(nids))

    async def backfill(self, of: RoomOfServer, latest: Sequence[str], limit: int) -> list[Pdu]:
        """Return events and those before them, the deepest first, as the server may see them."""
        known = await self._known(of.room, latest)
        start = [event_id for event_id, each in known.items() if of.may_begin_at(each)]
        found = await self._walk(of.room, start, frozenset(), min(limit, MAX_BACKFILL), 0)
        return await self._access.as_visible(of, found)

    async def missing(
        self,
        of: RoomOfServer,
        earliest: Collection[str],
        latest: Sequence[str],
        limit: int,
        min_depth: int,
    ) -> list[Pdu]:
        """Return events between `latest` and `earliest`, both left out, the oldest first."""
        ends = await self._known(of.room, latest)
        before = {
            event_id
            for each in ends.values()
            if of.may_begin_at(each)
            for event_id in each.pdu.prev_events
        }
        stop = frozenset((*earliest, *latest))
        found = await self._walk(
            of.room, sorted(before - stop), stop, min(limit, MAX_MISSING), min_depth
        )
        return (await self._access.as_visible(of, found))[::-1]

    async def event_by_time(self, of: RoomOfServer, ts_ms: int, *, backwards: bool) -> StoredEvent:
        """Return the event nearest to a time on one side of it that the server may see."""
        place = (ts_ms, 2**53) if backwards else (ts_ms, -(2**53))
        for _ in range(MAX_PAGES_BY_TIME):
            page = await stored_events.events_by_time(
                self._db, of.room.nid, place, backwards=backwards, limit=100
            )
            if not page:
                break
            place = (page[-1].ts_ms, page[-1].pos)
            known = await self._known(of.room, [event.event_id for event in page])
            ordered = [known[EventID(event.event_id)] for event in page]
            shown = await self._access.as_visible(of, ordered)
            for event, each, pdu in zip(page, ordered, shown, strict=True):
                if pdu is each.pdu:
                    return event
        raise NotFound("There is no event on this side of that time")

    async def _walk(
        self,
        room: Room,
        start: Collection[str],
        stop: frozenset[str],
        limit: int,
        min_depth: int,
    ) -> list[KnownPdu]:
        """Return events reached from `start` through prev_events, in descending depth.

        Soft-failed ones are among them, since what was accepted refers to them: whoever lacks
        one could place nothing that follows it. Spec: "Soft failure".
        """
        queue: list[tuple[int, int, EventID]] = []
        queued: dict[EventID, KnownPdu] = {}
        found: list[KnownPdu] = []

        def enqueue(known: Mapping[EventID, KnownPdu]) -> None:
            for event_id, each in known.items():
                if event_id in queued or event_id in stop or each.pdu.depth < min_depth:
                    continue
                queued[event_id] = each
                heappush(queue, (-each.pdu.depth, -(each.pos or 0), event_id))

        enqueue(await self._known(room, start))
        while queue and len(found) < limit and len(queued) < MAX_WALKED:
            each = queued[heappop(queue)[2]]
            if not each.flags & REJECTED:
                found.append(each)
            fresh = [event_id for event_id in each.pdu.prev_events if event_id not in queued]
            enqueue(await self._known(room, fresh))
        return found

    async def _known(self, room: Room, event_ids: Collection[str]) -> dict[EventID, KnownPdu]:
        return await stored_events.known_pdus(self._db, room.nid, event_ids, room.version)
