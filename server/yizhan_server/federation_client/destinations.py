"""Which servers are left alone for a while, because they did not answer.

The time doubles with each failure, up to an hour, and ends with any sign of life: an answer, or a
request of theirs. What is longer than a minute outlives a restart, so that starting does not mean
knocking at every dead server.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

from yizhan_config.tasks import Background
from yizhan_database import Database, DatabaseUnavailable, Transaction
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import RemoteUnavailable
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.storage import failing_destinations as storage
from yizhan_server.storage.failing_destinations import FailingDestination

FIRST_MS, LONGEST_MS = 10_000, 3_600_000
KEPT_FROM_MS = 60_000
"""Shorter times are not worth a write."""

FORGOTTEN_AFTER_MS = 30 * 86_400_000

MOST = 10_000
"""Servers of which it is remembered; of more, those that nobody has tried for the longest time are
forgotten. Anybody can name servers that are not there, in a call or as the senders of events."""

_SPREAD = 0.2
"""Lest all servers that a broken line had hidden be asked in the same second."""


@dataclass(slots=True)
class _Failing:
    since_ms: int
    interval_ms: int
    retry_ms: int
    kept: bool
    alive: asyncio.Event = field(default_factory=asyncio.Event)


class Destinations:
    """The back-off of each server. Call `prepare` once before use.

    Without a database, as for a command that asks once, nothing is kept.
    """

    def __init__(self, db: Database | None, clock: Clock, background: Background) -> None:
        self._db = db
        self._clock = clock
        self._background = background
        self._failing: dict[ServerName, _Failing] = {}

    async def prepare(self) -> None:
        """Read what an earlier run has kept; what nobody has tried for a month is forgotten."""
        if self._db is None:
            return
        tx = Transaction()
        storage.delete_stale_destinations(tx, self._clock.now_ms() - FORGOTTEN_AFTER_MS)
        await self._commit(tx)
        async for row in storage.scan_failing_destinations(self._db):
            self._failing[ServerName(row.server_name)] = _Failing(
                row.since_ms, row.interval_ms, row.retry_ms, kept=True
            )

    def retry_ms(self, server: ServerName) -> int:
        """Return from when on `server` may be tried again; 0 if nothing is known against it."""
        failing = self._failing.get(server)
        return 0 if failing is None else failing.retry_ms

    def failing_since_ms(self, server: ServerName) -> int | None:
        """Return since when `server` has not answered; None if it has."""
        failing = self._failing.get(server)
        return None if failing is None else failing.since_ms

    def failing(self) -> list[ServerName]:
        """Return the servers that have not answered."""
        return list(self._failing)

    def interval_ms(self, server: ServerName) -> int:
        """Return for how long `server` is left alone after its last failure; 0 if it answers."""
        failing = self._failing.get(server)
        return 0 if failing is None else failing.interval_ms

    def check(self, server: ServerName) -> None:
        """Raise RemoteUnavailable while `server` is left alone."""
        if self._clock.now_ms() < self.retry_ms(server):
            raise RemoteUnavailable(server, "did not answer, and is left alone for a while")

    async def wait_until_due(self, server: ServerName) -> None:
        """Wait until `server` may be tried again, or gives a sign of life."""
        while (failing := self._failing.get(server)) is not None:
            left_ms = failing.retry_ms - self._clock.now_ms()
            if left_ms <= 0:
                return
            try:
                async with asyncio.timeout(left_ms / 1000):
                    await failing.alive.wait()
            except TimeoutError:
                continue  # it may have failed again meanwhile

    def note_alive(self, server: ServerName) -> None:
        """End the back-off of `server`, which has answered or asked."""
        failing = self._failing.pop(server, None)
        if failing is None:
            return
        failing.alive.set()
        if failing.kept:
            self._background.spawn("destination alive", self._forget(server))

    async def note_failure(self, server: ServerName, *, at_least_ms: int = 0) -> None:
        """Leave `server` alone for twice as long as the last time, or `at_least_ms` if longer.

        Of several requests that fail in one period only the first counts.
        """
        now_ms = self._clock.now_ms()
        failing = self._failing.get(server)
        if failing is not None and now_ms < failing.retry_ms:
            return
        if failing is None:
            failing = _Failing(now_ms, 0, 0, kept=False)
        self._failing.pop(server, None)
        self._failing[server] = failing
        if len(self._failing) > MOST:
            self.note_alive(next(iter(self._failing)))
        doubled = min(max(failing.interval_ms * 2, FIRST_MS), LONGEST_MS)
        failing.interval_ms = max(doubled, min(at_least_ms, LONGEST_MS))
        spread = random.uniform(1 - _SPREAD, 1)  # noqa: S311 (spreads load, hides nothing)
        failing.retry_ms = now_ms + max(int(failing.interval_ms * spread), at_least_ms)
        if failing.interval_ms >= KEPT_FROM_MS:
            failing.kept = True
            await self._keep(server, failing)

    async def _keep(self, server: ServerName, failing: _Failing) -> None:
        tx = Transaction()
        row = FailingDestination(server, failing.since_ms, failing.interval_ms, failing.retry_ms)
        storage.replace_failing_destination(tx, row)
        await self._commit(tx)

    async def _forget(self, server: ServerName) -> None:
        if (again := self._failing.get(server)) is not None and again.kept:
            return  # it has failed again since, and that is kept
        tx = Transaction()
        storage.delete_failing_destination(tx, server)
        await self._commit(tx)

    async def _commit(self, tx: Transaction) -> None:
        # At worst a server is asked, or left alone, once more after a restart.
        if self._db is not None:
            with suppress(DatabaseUnavailable):
                await self._db.commit(tx)
