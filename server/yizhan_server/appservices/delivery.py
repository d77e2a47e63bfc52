"""Delivery: one follower of the stream for each application service.

A transaction is stored before it is first sent and is forgotten in the commit that notes that it
was taken: so a crash at any moment repeats it under the same id, byte for byte, and the next one
is composed only afterwards. What is behind waits in the stream itself; nothing is queued.

Spec: application service API, "Pushing events".
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, suppress
from functools import partial

from yizhan_config.tasks import Background
from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.appservices.calls import AppserviceCalls, CallFailed
from yizhan_server.appservices.registered import Appservices
from yizhan_server.appservices.registration import Appservice
from yizhan_server.appservices.transactions import Transactions, recipients_of
from yizhan_server.ephemeral.counter import EphemeralCounter
from yizhan_server.storage import appservices as storage
from yizhan_server.storage.appservices import Delivery
from yizhan_server.streams import Stream

log = logging.getLogger(__name__)

LAG = 1000
"""Positions without interest that may be looked at again after a restart."""
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 300.0
REQUEST_TIMEOUT_S = 60.0


class AppserviceDelivery:
    """Sends each service its transactions, in order."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        counter: EphemeralCounter,
        services: Appservices,
        transactions: Transactions,
        calls: AppserviceCalls,
        background: Background,
    ) -> None:
        self._db = db
        self._stream = stream
        self._counter = counter
        self._services = services
        self._transactions = transactions
        self._calls = calls
        self._background = background
        self._reached = {service.id: asyncio.Event() for service in services}

    def start(self) -> None:
        """Begin to follow the stream, for each service that wants traffic."""
        for service in self._services:
            if service.url is not None:
                self._background.keep(f"appservice {service.id}", partial(self._run, service))

    def note_reached(self, service_id: str) -> None:
        """End a wait: the service has just answered something else."""
        self._reached[service_id].set()

    async def _run(self, service: Appservice) -> None:
        delivery = await self._begin(service)
        after, heard = delivery.pos, 0
        with ExitStack() as stack:
            woken = stack.enter_context(self._stream.follow())
            if service.receives_ephemeral:
                stack.enter_context(self._counter.follow(woken.set))
            while not self._stream.closing:
                if delivery.body is not None:
                    await self._send(service, delivery.txn, delivery.body)
                    delivery = await self._finish(service, delivery)
                    after = delivery.pos
                    continue
                woken.clear()
                upto, counted = self._stream.position, self._counter.value
                composed = await self._transactions.compose(service, after, upto, heard)
                heard = counted
                if composed.body is not None:
                    delivery = await self._store(service, delivery, composed.end, composed.body)
                    continue
                after = composed.end
                if after - delivery.pos > LAG:
                    delivery = await self._advance(service, delivery, after)
                if after == upto:
                    await woken.wait()

    async def _begin(self, service: Appservice) -> Delivery:
        """Return where the service stands; a new one begins with what happens from now on."""
        found = await storage.find_delivery(self._db, service.id)
        if found is None:
            tx = Transaction()
            storage.insert_delivery(tx, service.id, self._stream.position)
            await self._db.commit(tx)
            found = await storage.find_delivery(self._db, service.id)
        assert found is not None, "it has just been made"
        return found

    async def _store(
        self, service: Appservice, delivery: Delivery, end: int, body: bytes
    ) -> Delivery:
        tx = Transaction()
        storage.store_transaction(tx, service.id, delivery.txn + 1, end, body)
        return await self._commit(service, tx)

    async def _finish(self, service: Appservice, delivery: Delivery) -> Delivery:
        """Note that the stored transaction was taken."""
        assert delivery.body is not None
        tx = Transaction()
        storage.finish_transaction(tx, service.id, delivery.txn)
        # Who has no other way to receive them has them now; anybody else may still be syncing.
        taken = [each for each in recipients_of(delivery.body) if service.owns_user(each[0])]
        storage.delete_to_device(tx, taken, delivery.pos, delivery.upto)
        return await self._commit(service, tx)

    async def _advance(self, service: Appservice, delivery: Delivery, pos: int) -> Delivery:
        tx = Transaction()
        storage.advance_delivery(tx, service.id, delivery.txn, pos)
        return await self._commit(service, tx)

    async def _commit(self, service: Appservice, tx: Transaction) -> Delivery:
        """Commit, and return where the service stands: elsewhere if another process was faster."""
        with suppress(GuardFailed):
            await self._db.commit(tx)
        return await self._begin(service)

    async def _send(self, service: Appservice, txn: int, body: bytes) -> None:
        """Return when the service has taken the transaction."""
        delay = FIRST_DELAY_S
        while True:
            try:
                answer = await self._calls.call(
                    service, "PUT", ("transactions", str(txn)), body=body,
                    timeout_s=REQUEST_TIMEOUT_S,
                )  # fmt: skip
            except CallFailed as failed:
                why = str(failed)
            else:
                if answer.is_success:
                    return
                why = f"status {answer.status}"
            log.warning(
                "application service did not take a transaction",
                extra={"appservice": service.id, "why": why, "again_in_s": delay},
            )
            await self._pause(service, delay)
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def _pause(self, service: Appservice, delay_s: float) -> None:
        reached = self._reached[service.id]
        reached.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await reached.wait()
