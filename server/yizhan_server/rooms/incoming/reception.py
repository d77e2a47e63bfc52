"""Leading events of other servers through all checks, in order, room by room.

Spec: server-server API, "Transactions", "Server Access Control Lists (ACLs)".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from weakref import WeakValueDictionary

from yizhan_server.clock import Clock
from yizhan_server.federation_client.answers import RawPdu
from yizhan_server.federation_client.errors import RemoteUnavailable
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.event import InvalidPdu, Pdu
from yizhan_server.protocol.identifiers import EventID, ServerName
from yizhan_server.protocol.signing import NoKeys
from yizhan_server.rooms.incoming.gaps import Gaps
from yizhan_server.rooms.incoming.patience import Key, Patience
from yizhan_server.rooms.incoming.placing import Outcome, Placing
from yizhan_server.rooms.incoming.recommendation import Recommendation
from yizhan_server.rooms.incoming.verification import BadlySigned, Verification
from yizhan_server.rooms.policy_servers import Question
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import ServerAccess, check_server_acl

log = logging.getLogger(__name__)

UNPLACEABLE = "events that it refers to could not be obtained"


GAP_S = 60
"""Seconds that all requests for what is missing before some events may take together."""

POLICY_S = 30
"""Seconds that a policy server may take over all of them; what it has not signed is soft-failed."""


class Reception:
    """Takes events of rooms that this server is in."""

    def __init__(
        self,
        clock: Clock,
        access: ServerAccess,
        verification: Verification,
        gaps: Gaps,
        placing: Placing,
        recommendation: Recommendation,
    ) -> None:
        self._access = access
        self._verification = verification
        self._gaps = gaps
        self._placing = placing
        self._recommendation = recommendation
        self._queues: WeakValueDictionary[tuple[int, ServerName], asyncio.Lock] = (
            WeakValueDictionary()
        )
        """Of a room and a server: one that is slow to close its gaps keeps nobody else waiting."""
        self._for_gaps = Patience(clock)
        self._for_keys = Patience(clock)

    async def is_in_room(self, room: Room) -> bool:
        """Whether this server is in the room, so that its events are taken."""
        return await self._access.is_here(room)

    async def receive(
        self, origin: ServerName, room: Room, raws: Sequence[RawPdu | JsonObject]
    ) -> dict[EventID, str | None]:
        """Take events of a room; returns what was wrong with each that has a readable ID.

        What is not refused is durable. A server's events of one room are taken one call after
        another.
        """
        await check_server_acl(room, origin)
        results: dict[EventID, str | None] = {}
        pdus: list[Pdu] = []
        lacks_keys = False
        for each in await self._verification.verify(raws, room.version):
            if isinstance(each, BadlySigned):
                lacks_keys = lacks_keys or isinstance(each.why, NoKeys)
                results[each.event_id] = str(each.why)
                log.info("event dropped", extra={"origin": origin, "why": str(each.why)})
            elif isinstance(each, InvalidPdu):
                log.info("event dropped", extra={"origin": origin, "why": str(each)})
            elif each.room_id == room.room_id:
                pdus.append(each)
        outcomes = await self.receive_verified(origin, room, pdus)
        self._check_keys((room.nid, origin), are_lacking=lacks_keys)
        for pdu in pdus:
            # A rejected event has been dealt with: it is kept, and never asked for again.
            outcome = outcomes.get(pdu.event_id, Outcome.UNPLACEABLE)
            results[pdu.event_id] = UNPLACEABLE if outcome is Outcome.UNPLACEABLE else None
            if results[pdu.event_id] is not None:
                extra = {"origin": origin, "event_id": pdu.event_id, "why": UNPLACEABLE}
                log.info("event refused", extra=extra)
        return results

    def _check_keys(self, key: Key, *, are_lacking: bool) -> None:
        """Answer 503 if a server passed on an event of one whose keys are not to be had now."""
        if not are_lacking:
            self._for_keys.restore(key)
        elif self._for_keys.is_left(key):
            self._for_keys.try_more(key)
            raise MatrixError(503, "M_UNKNOWN", "The keys of an event's server are not to be had")

    async def receive_verified(
        self, origin: ServerName, room: Room, pdus: Sequence[Pdu], *, flags: int = 0
    ) -> dict[EventID, Outcome]:
        """Place verified events, and those missing before them.

        `flags` is LOCAL where this server passes the events on to the others in the room.
        """
        if not pdus:
            return {}
        async with self._queues.setdefault((room.nid, origin), asyncio.Lock()):
            found, after_gap = await self._closed(origin, room, pdus)
            own = {pdu.event_id for pdu in pdus}
            if not flags or own == {pdu.event_id for pdu in found}:
                return await self._place(room, found, after_gap, flags)
            before = [pdu for pdu in found if pdu.event_id not in own]
            outcomes = await self._place(room, before, after_gap, 0)
            after = [pdu for pdu in found if pdu.event_id in own]
            return outcomes | await self._place(room, after, after_gap, flags)

    async def _closed(
        self, origin: ServerName, room: Room, pdus: Sequence[Pdu]
    ) -> tuple[list[Pdu], frozenset[EventID]]:
        """Return events with those missing before them, and those after a gap.

        Answers 503 where their server did not say what is missing: it sends them again, and by
        then has had time to. Were they refused, nobody would send them again; were the gap left,
        what is in it would never be live here.
        """
        key = (room.nid, origin)
        patient = self._for_gaps.is_left(key)
        try:
            async with asyncio.timeout(GAP_S):
                closed = await self._gaps.closed(origin, room, pdus, patient=patient)
        except (TimeoutError, RemoteUnavailable):
            log.info("gap not closed in time", extra={"origin": origin})
            if not patient:
                return [], frozenset()
            self._for_gaps.try_more(key)
            raise MatrixError(503, "M_UNKNOWN", "What is missing came too slowly") from None
        if patient:
            self._for_gaps.restore(key)
        return closed

    async def _place(
        self, room: Room, pdus: Sequence[Pdu], after_gap: frozenset[EventID], flags: int
    ) -> dict[EventID, Outcome]:
        """Place events, and ask the room's policy server about those that lack its signature."""
        deadline = asyncio.get_running_loop().time() + POLICY_S
        outcomes: dict[EventID, Outcome] = {}
        asked: frozenset[Question] = frozenset()
        while pdus:
            outcomes |= await self._placing.place(room, pdus, after_gap, flags=flags, asked=asked)
            pdus = [pdu for pdu in pdus if pdu.event_id not in outcomes]
            if pdus:
                pdus, questions = await self._recommendation.asked_for(room, pdus, deadline)
                asked |= questions
        return outcomes
