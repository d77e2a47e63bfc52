"""Answers of other servers that are kept for a while.

However many ask at once, the other server is asked once; and what it refuses, or that it does not
answer, is kept too, for half a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from yizhan_config.tasks import Background
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import RemoteFailure

K = TypeVar("K")
V = TypeVar("V")

FAILURES_MS = 30_000

Ask = Callable[[], None]
"""Called before another server is asked: raises when the caller has asked too much already."""


@dataclass(frozen=True, slots=True)
class _Kept(Generic[V]):
    outcome: V | RemoteFailure
    until_ms: int
    size: int


class Remembered(Generic[K, V]):
    """Answers by what they answer, at most `most` of them, for `for_ms` each.

    Where `size_of` tells how large each is, all of them together have at most `most_bytes`.

    Those who ask while the other server has yet to answer share its answer in any case.
    """

    def __init__(
        self,
        clock: Clock,
        background: Background,
        question: Callable[[K], Awaitable[V]],
        *,
        for_ms: int,
        most: int,
        most_bytes: int = 0,
        size_of: Callable[[V], int] = lambda _: 0,
    ) -> None:
        self._clock = clock
        self._background = background
        self._question = question
        self._for_ms = for_ms
        self._most = most
        self._most_bytes = most_bytes
        self._size_of = size_of
        self._bytes = 0
        self._kept: dict[K, _Kept[V]] = {}
        self._asked: dict[K, asyncio.Future[V | RemoteFailure]] = {}

    async def get(self, key: K, ask: Ask) -> V:
        """Return the answer, asked for now if need be. Raises the four kinds of RemoteFailure."""
        outcome = await self._outcome(key, ask)
        if isinstance(outcome, RemoteFailure):
            # Anew, or its traceback would grow with each who is told.
            raise outcome.with_traceback(None)
        return outcome

    async def _outcome(self, key: K, ask: Ask) -> V | RemoteFailure:
        kept = self._kept.get(key)
        if kept is not None and self._clock.now_ms() < kept.until_ms:
            return kept.outcome
        asked = self._asked.get(key)
        if asked is None:
            ask()
            asked = asyncio.get_running_loop().create_future()
            self._asked[key] = asked
            self._background.spawn("question to another server", self._answer(key, asked))
        return await asyncio.shield(asked)

    async def _answer(self, key: K, asked: asyncio.Future[V | RemoteFailure]) -> None:
        lifetime_ms = self._for_ms
        try:
            outcome: V | RemoteFailure = await self._question(key)
        except RemoteFailure as failure:
            outcome, lifetime_ms = failure, FAILURES_MS
        except Exception as error:
            asked.set_exception(error)
            asked.exception()  # the supervisor logs it; those who wait get it as well
            raise
        finally:
            del self._asked[key]
        self._drop(key)
        size = 0 if isinstance(outcome, RemoteFailure) else self._size_of(outcome)
        self._kept[key] = _Kept(outcome, self._clock.now_ms() + lifetime_ms, size)
        self._bytes += size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))
        asked.set_result(outcome)

    def _drop(self, key: K) -> None:
        kept = self._kept.pop(key, None)
        self._bytes -= 0 if kept is None else kept.size
