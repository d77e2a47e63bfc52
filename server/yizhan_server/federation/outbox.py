"""Sending to other servers: one follower of the stream, and one task for each busy server.

The follower only notes who is owed something; what it is, the stream itself says, so that a server
that was away for days costs one row. A transaction is stored before its first attempt and sent
byte for byte until it is taken; the next one is composed only then. So nothing is lost or doubled
by a crash of either side, and each server gets the events of a room in their order.

An event is owed to the servers that were in its room before it, and to the server of whoever it
takes an invitation from. Spec: server-server API, "Transactions".
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import orjson

from yizhan_config.tasks import Background, Started
from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.clock import Clock
from yizhan_server.federation_client.destinations import Destinations
from yizhan_server.federation_client.errors import (
    PeerNotAllowed,
    RemoteFailure,
    RemoteUnavailable,
)
from yizhan_server.federation_client.events import EventRequests
from yizhan_server.federation_client.peers import Peers
from yizhan_server.protocol.canonical_json import JsonObject, encode_any
from yizhan_server.protocol.identifiers import ServerName, server_name_of
from yizhan_server.storage import destinations as storage
from yizhan_server.storage import followers as stored_followers
from yizhan_server.storage.destinations import BusyDestination, OwnEvent
from yizhan_server.streams import Stream

log = logging.getLogger(__name__)

NAME = "federation"
MAX_PDUS = 50
MAX_EDUS = 100
MAX_STORED_EDUS = 50
MAX_STREAM_EDUS = 40
PAGE = 500
"""Events of ours that the follower looks at in one step."""

AT_ONCE = 10
"""Events of a step that the follower puts into transactions itself; of more, each task does so."""

BYTES_AT_ONCE = 4 << 20
"""Of the transactions that the follower stores in one commit: all other writers wait for it."""

UNRECORDED = 1000
"""Positions that owe nobody anything and that the follower passes without recording how far it is.

After a crash it passes them again.
"""

MAX_FLEETING = 1000
"""EDUs that need not arrive that wait for one server; beyond, the oldest give way."""

RETRY_S, LONGEST_RETRY_S = 60.0, 1800.0
"""After an answer that is no sign of death, and yet not the right one; then ever later."""


class StreamEdus(Protocol):
    """What EDUs the stream owes a server, beside events: changes of devices and keys."""

    async def owed(
        self, server: ServerName, after: int, upto: int, limit: int
    ) -> tuple[list[JsonObject], int]:
        """Return the first EDUs of (after, upto], about `limit`, and up to where these are all."""
        ...

    async def concerned(self, after: int, upto: int) -> set[ServerName]:
        """Return the servers that are owed some of (after, upto]."""
        ...


class Outbox:
    """Sends transactions."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        clock: Clock,
        requests: EventRequests,
        destinations: Destinations,
        peers: Peers,
        edus: Sequence[StreamEdus],
        background: Background,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._requests = requests
        self._destinations = destinations
        self._peers = peers
        self._edus = edus
        self._background = background
        self._server_name = server_name
        self._tasks: dict[ServerName, Started] = {}
        self._woken: set[ServerName] = set()
        """Servers whose tasks have to look once more before they end."""
        self._noted: dict[str, int] = {}
        """Up to where busy servers are owed something; not of those that were busy at the start."""
        self._recorded = 0
        """How far the follower is by its row."""
        self._fleeting: dict[ServerName, dict[tuple[str, ...], JsonObject]] = defaultdict(dict)
        """EDUs that need not arrive, the latest of each kind and subject."""

    def start(self) -> None:
        """Begin to follow the stream, and go on with whoever was owed something."""
        self._background.keep("federation outbox", self._follow)

    def tell(
        self, servers: Iterable[ServerName], subject: tuple[str, ...], edu: JsonObject
    ) -> None:
        """Send an EDU that need not arrive, in place of an earlier one about the same subject.

        Servers that are away do not get it: by the time that they are back it is stale.
        """
        for server in servers:
            if server == self._server_name or not self._peers.is_allowed(server):
                continue
            if self._clock.now_ms() < self._destinations.retry_ms(server):
                continue
            waiting = self._fleeting[server]
            waiting.pop(subject, None)
            waiting[subject] = edu
            if len(waiting) > MAX_FLEETING:
                del waiting[next(iter(waiting))]
            self.wake(server)

    async def _follow(self) -> None:
        async for server in storage.scan_busy_servers(self._db):
            self.wake(ServerName(server))
        after = self._recorded = await stored_followers.find_cursor(self._db, NAME)
        with self._stream.follow() as woken:
            while not self._stream.closing:
                woken.clear()
                upto = self._stream.position
                while after < upto:
                    after = await self._note(after, upto)
                await woken.wait()

    async def _note(self, after: int, upto: int) -> int:
        """Note who is owed something of (after, upto]; returns how far that went."""
        events = await storage.own_events(self._db, after, upto, PAGE)
        end = events[-1].pos if len(events) == PAGE else upto
        owed = await self._owed(events, after, end)
        if not owed and end - self._recorded < UNRECORDED:
            return end
        tx = Transaction()
        stored = self._store_first(tx, owed, end) if len(events) <= AT_ONCE else set()
        storage.mark_busy(tx, [server for server in owed if server not in stored], after)
        stored_followers.advance_cursor(tx, NAME, end)
        for server in owed:
            self._noted[server] = end
        await self._db.commit(tx)
        self._recorded = end
        for server in owed:
            self.wake(ServerName(server))
        return end

    async def _owed(
        self, events: Sequence[OwnEvent], after: int, upto: int
    ) -> dict[str, list[OwnEvent]]:
        """Return the events that each server is owed; none for one that is owed EDUs as well."""
        stays = await storage.servers_of_rooms(
            self._db, list({event.room for event in events}), self._server_name
        )
        owed: dict[str, list[OwnEvent]] = {}
        for event in events:
            for server in recipients(event, stays.get(event.room, ())):
                owed.setdefault(server, []).append(event)
        for source in self._edus:
            for server in await source.concerned(after, upto):
                owed[server] = []
        owed.pop(self._server_name, None)
        return owed

    def _store_first(self, tx: Transaction, owed: dict[str, list[OwnEvent]], upto: int) -> set[str]:
        """Store the next transaction of servers that are owed these events and nothing else.

        Returns which. Left out are those that have a task, most of which are busy: their rows say
        already that they are owed something. A row that a server without one has stays as it is.
        """
        now_ms = self._clock.now_ms()
        bodies: dict[tuple[int, ...], bytes] = {}
        stored: set[str] = set()
        left = BYTES_AT_ONCE
        for server, events in owed.items():
            name = ServerName(server)
            is_idle = name not in self._tasks and name not in self._fleeting
            if not events or not is_idle or not self._peers.is_allowed(name):
                continue
            which = tuple(event.pos for event in events)
            if which not in bodies:
                bodies[which] = self._body([event.pdu.raw for event in events], [])
            left -= len(bodies[which])
            if left < 0:
                break
            storage.begin_transaction(
                tx, server, events[0].pos - 1, _txn_id(), bodies[which], upto, now_ms
            )
            stored.add(server)
        return stored

    def wake(self, server: ServerName) -> None:
        """Have a task work on what a server is owed, which is durable by now."""
        self._woken.add(server)
        running = self._tasks.get(server)
        if (running is None or running.done) and self._peers.is_allowed(server):
            self._tasks[server] = self._background.keep(
                f"federation to {server}", partial(self._serve, server)
            )

    async def _serve(self, server: ServerName) -> None:
        """Send a server all that it is owed, then end."""
        while not self._stream.closing:
            self._woken.discard(server)
            busy = await storage.find_busy(self._db, server)
            while busy is not None and not self._stream.closing:
                if busy.body is not None:
                    assert busy.txn_id is not None, "stored together"
                    if not await self._send(server, busy.txn_id, busy.body, give_up=False):
                        return
                busy = await self._go_on(server, busy)
            fleeting = self._take_fleeting(server, MAX_EDUS)
            if fleeting:
                await self._send(server, _txn_id(), self._body([], fleeting), give_up=True)
            elif server not in self._woken:
                break
        self._tasks.pop(server, None)
        self._noted.pop(server, None)

    async def _go_on(self, server: ServerName, busy: BusyDestination) -> BusyDestination | None:
        """Store the next transaction in place of the one that was taken, if there was one.

        Returns how far the server is then; None when nothing is owed, and it is no longer busy.
        """
        tx = Transaction()
        sent, sent_edu = busy.sent_pos, 0
        if busy.txn_id is not None:
            sent, sent_edu = busy.upto_pos or 0, busy.upto_edu or 0
            storage.finish_transaction(tx, server, busy.txn_id, sent_edu)
        following = await self._compose(tx, server, sent, sent_edu)
        try:
            await self._db.commit(tx)
        except GuardFailed:  # it was given up meanwhile
            return await storage.find_busy(self._db, server)
        return following

    async def _compose(
        self, tx: Transaction, server: ServerName, sent: int, sent_edu: int
    ) -> BusyDestination | None:
        """Add to a job the next transaction of a server that has everything up to `sent`.

        Returns how far the server is then; None when nothing is owed. Without a transaction when
        it only became clear that nothing is owed of a stretch of the stream.
        """
        waiting = await storage.first_edus(self._db, server, sent_edu, MAX_STORED_EDUS)
        if not waiting and self._noted.get(server, sent + 1) <= sent:
            storage.delete_busy(tx, server)
            return None
        upto = self._stream.position
        events = await storage.own_events_for(self._db, server, sent, upto, MAX_PDUS)
        if len(events) == MAX_PDUS:
            upto = events[-1].pos
        edus: list[JsonObject] = []
        for source in self._edus:
            # One source is enough so far; each further one would have to share the limit.
            owed, upto = await source.owed(server, sent, upto, MAX_STREAM_EDUS)
            edus += owed
        pdus = [e.pdu.raw for e in events if e.pos <= upto and is_owed(e, server)]
        edus += [orjson.loads(edu) for _, edu in waiting]
        if not pdus and not edus:
            if upto == self._stream.position:
                # What came since the look has a position, and would show.
                storage.delete_busy(tx, server)
                return None
            storage.advance_sent(tx, server, upto)
            return BusyDestination(server, upto)
        edus += self._take_fleeting(server, MAX_EDUS - len(edus))
        last = waiting[-1][0] if waiting else 0
        txn_id, body = _txn_id(), self._body(pdus, edus)
        storage.store_transaction(tx, server, txn_id, body, upto, last, self._clock.now_ms())
        return BusyDestination(server, sent, txn_id, body, upto, last)

    def _take_fleeting(self, server: ServerName, limit: int) -> list[JsonObject]:
        waiting = self._fleeting.pop(server, {})
        taken = [waiting.pop(subject) for subject in list(waiting)[:limit]]
        if waiting:
            self._fleeting[server] = waiting
        return taken

    def _body(self, pdus: Sequence[JsonObject], edus: Sequence[JsonObject]) -> bytes:
        return encode_any(
            {
                "origin": self._server_name,
                "origin_server_ts": self._clock.now_ms(),
                "pdus": pdus,
                "edus": edus,
            }
        )

    async def _send(self, server: ServerName, txn_id: str, body: bytes, *, give_up: bool) -> bool:
        """Return once the server has taken a transaction; with `give_up` after one attempt.

        Also when the transaction has been given up meanwhile, which its end then shows. False if
        the server is no longer to be spoken with.
        """
        retry_s = RETRY_S
        while True:
            try:
                refused = await self._requests.send_transaction(server, txn_id, body)
            except PeerNotAllowed:
                return False
            except RemoteUnavailable:
                # By the time that it is back they are stale.
                self._fleeting.pop(server, None)
                if give_up:
                    return True
                await self._destinations.wait_until_due(server)
                busy = await storage.find_busy(self._db, server)
                if busy is None or busy.txn_id != txn_id:
                    return True
            except RemoteFailure as failure:
                log.warning("transaction not taken", extra={"why": str(failure)})
                if give_up:
                    return True
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            else:
                for event_id, why in refused.items():
                    log.info("event refused", extra={"event_id": event_id, "why": why[:200]})
                return True


def recipients(event: OwnEvent, stays: Iterable[tuple[str, int, int]]) -> set[str]:
    """Return the servers that an event is owed to."""
    servers = {
        server
        for server, start, end in stays
        if start < event.pos and (end == 0 or end >= event.pos)
    }
    target = _uninvited(event)
    if target is not None:
        servers.add(target)
    return {server for server in servers if is_owed(event, server)}


def is_owed(event: OwnEvent, server: str) -> bool:
    """Whether an event found by `own_events_for` is owed to the server.

    That finds all member events of the server's users. Those that it has signed itself, and that
    this server only passes on to the others, it has. An invitation by address is made here in
    the name of whoever gave it, and not signed by that one's server, which has yet to learn of it.
    """
    signatures = event.pdu.raw.get("signatures", {})
    return server_name_of(event.pdu.sender) != server or server not in signatures


def _uninvited(event: OwnEvent) -> ServerName | None:
    """Return the server of whom a leave or ban is about."""
    pdu = event.pdu
    if pdu.type != "m.room.member" or pdu.state_key is None:
        return None
    return server_name_of(pdu.state_key) if pdu.membership in ("leave", "ban") else None


def _txn_id() -> str:
    return secrets.token_urlsafe(12)
