"""Fetching history that people page back to and that is not here.

Where somebody reads on beyond the edge of what this server has, servers in the room are asked for
the events before it. What they answer counts only as far as events that are here refer to it,
directly or through one another: nobody can slip an event into the past. An event that somebody
looks for by its time follows on nothing that is here; where it can be, a server other than its
sender's has to know it.

Nobody can make this server ask others without end: it asks once at a time for a room, a few
servers, and does not ask again for a while at an edge at which nothing came.

Spec: server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from yizhan_config.tasks import Background, Started
from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import RemoteFailure
from yizhan_server.federation_client.events import EventRequests, FoundEvent
from yizhan_server.federation_client.peers import Peers
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, ServerName, server_name_of
from yizhan_server.rooms.incoming.gaps import Gaps
from yizhan_server.rooms.incoming.history import History
from yizhan_server.rooms.incoming.verification import Verification
from yizhan_server.rooms.room import Room
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import room_servers as stored_servers

log = logging.getLogger(__name__)

PER_REQUEST = 100
EDGES = 10
"""Missing events that one request names."""

SERVERS = 3
"""Servers that are asked, the largest of the room first, until one helps."""

ROOMS_AT_ONCE = 10
PATIENCE_S = 10
"""How long a reader waits; what comes later is there for the next page."""

PAUSE_MS = 60_000
"""For so long nobody is asked again at an edge at which nothing came."""

MAX_PAUSES = 10_000


class Backfill:
    """Fetches what is missing before events."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        background: Background,
        requests: EventRequests,
        peers: Peers,
        verification: Verification,
        gaps: Gaps,
        history: History,
    ) -> None:
        self._db = db
        self._clock = clock
        self._background = background
        self._requests = requests
        self._peers = peers
        self._verification = verification
        self._gaps = gaps
        self._history = history
        self._running: dict[int, Started] = {}
        self._paused: dict[str, int] = {}

    async def is_at_edge(self, room: Room, low: int, high: int) -> bool:
        """Whether events are missing before events with a depth in [low, high]."""
        return bool(await stored_edges.missing_between(self._db, room.nid, low, high, 1))

    async def reach(self, room: Room, low: int, high: int) -> bool:
        """Fetch events missing before those with a depth in [low, high]; whether any came."""
        before = await stored_edges.missing_between(self._db, room.nid, low, high, EDGES)
        if not before:
            return False
        wanted = await self._unpaused(room, low, high)
        running = self._running.get(room.nid)
        if running is None:
            if not wanted or len(self._running) >= ROOMS_AT_ONCE:
                return False
            running = self._background.spawn("backfill", self._fetch_before(room, wanted))
            self._running[room.nid] = running
        try:
            async with asyncio.timeout(PATIENCE_S):
                await running.wait()
        except TimeoutError:
            return False
        return before != await stored_edges.missing_between(self._db, room.nid, low, high, EDGES)

    async def event_by_time(
        self, room: Room, ts_ms: int, direction: Literal["f", "b"]
    ) -> FoundEvent | None:
        """Return what a server in the room has nearest to a time; its event is here then.

        None if no server has anything that this one can keep.
        """
        for server in await self._servers(room):
            try:
                found = await self._requests.event_by_time(server, room.room_id, ts_ms, direction)
                event_id = EventID(found.event_id)
                known = await stored_events.known_pdus(self._db, room.nid, [event_id], room.version)
                if event_id in known and known[event_id].pos is not None:
                    return found
                raw = await self._requests.event(server, event_id)
            except RemoteFailure as failure:
                log.info("no event of that time obtained", extra={"why": str(failure)})
                continue
            pdus = await self._verification.verified([raw], room.version, room.room_id)
            if not pdus or pdus[0].event_id != event_id:
                continue
            if not await self._is_known_elsewhere(server, room, pdus[0]):
                log.info("event of that time is known to its server only")
                continue
            if await self._keep(server, room, pdus):
                return FoundEvent(event_id, pdus[0].origin_server_ts)
        return None

    async def _is_known_elsewhere(self, told_by: ServerName, room: Room, pdu: Pdu) -> bool:
        """Whether a server other than the sender's has an event, or there is none to ask.

        The sender's could have made it up just now.
        """
        sender = server_name_of(pdu.sender)
        if told_by != sender:
            return True
        others = [each for each in await self._peers_in(room) if each != sender]
        for server in others[:SERVERS]:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._requests.event(server, pdu.event_id)
            except (RemoteFailure, TimeoutError):
                continue
            return True
        return not others

    async def _fetch_before(self, room: Room, wanted: Sequence[EventID]) -> None:
        try:
            for server in await self._servers(room):
                try:
                    raws = await self._requests.backfill(server, room.room_id, wanted, PER_REQUEST)
                except RemoteFailure as failure:
                    log.info("history not obtained", extra={"why": str(failure)})
                    continue
                pdus = await self._verification.verified(
                    raws[:PER_REQUEST], room.version, room.room_id
                )
                if await self._keep(server, room, connected(pdus, wanted)):
                    break
            missing = await stored_edges.are_missing(self._db, room.nid, wanted)
            self._pause(missing)
        finally:
            self._running.pop(room.nid, None)

    async def _keep(self, server: ServerName, room: Room, pdus: Sequence[Pdu]) -> bool:
        if not pdus:
            return False
        await self._gaps.fetch_auth_events(server, room, pdus)
        return await self._history.append(room, pdus) > 0

    async def _servers(self, room: Room) -> list[ServerName]:
        return (await self._peers_in(room))[:SERVERS]

    async def _peers_in(self, room: Room) -> list[ServerName]:
        servers = await stored_servers.largest_servers(self._db, room.nid)
        return [ServerName(each) for each in servers if self._peers.is_allowed(ServerName(each))]

    async def _unpaused(self, room: Room, low: int, high: int) -> list[EventID]:
        now_ms = self._clock.now_ms()
        missing = await stored_edges.missing_between(self._db, room.nid, low, high, 10 * EDGES)
        return [EventID(each) for each in missing if self._paused.get(each, 0) <= now_ms][:EDGES]

    def _pause(self, event_ids: Iterable[str]) -> None:
        until_ms = self._clock.now_ms() + PAUSE_MS
        for event_id in event_ids:
            self._paused.pop(event_id, None)
            self._paused[event_id] = until_ms
        while len(self._paused) > MAX_PAUSES:
            del self._paused[next(iter(self._paused))]


def connected(pdus: Sequence[Pdu], wanted: Collection[EventID]) -> list[Pdu]:
    """Return those of `pdus` that are wanted, or that one of these follows, the deepest first."""
    given = {pdu.event_id: pdu for pdu in pdus}
    reached: dict[EventID, Pdu] = {}
    queue = [event_id for event_id in wanted if event_id in given]
    while queue:
        event_id = queue.pop()
        if event_id in reached:
            continue
        reached[event_id] = given[event_id]
        queue += [each for each in given[event_id].prev_events if each in given]
    return sorted(reached.values(), key=lambda pdu: -pdu.depth)
