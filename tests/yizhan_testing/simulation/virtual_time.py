"""An event loop whose time passes only when nothing is left to do, and then at once."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

from typing_extensions import override

START_MS = 1_800_000_000_000
"""What the servers take for now when a simulation begins."""


OUTSIDE_WITHIN_S = 60.0
"""Of real time: a database that does not answer until then waits for something that never comes."""


class Deadlock(Exception):
    """Nothing is to be done, and nothing ever will be."""


class _PatientSelector(selectors.SelectSelector):
    """Lets time pass where a real one would wait, except for answers from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.answers_awaited = 0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            # Whatever has come from outside is looked at when nothing else is to be done: how
            # long it took makes no difference then.
            return []
        if self.answers_awaited:
            ready = super().select(OUTSIDE_WITHIN_S)
            if not ready:
                raise Deadlock
            return ready
        if timeout is None:
            raise Deadlock
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. What is meant for a thread runs on the loop, a step later."""

    def __init__(self) -> None:
        self._patient = _PatientSelector()
        super().__init__(self._patient)
        self.turn = asyncio.Lock()
        """Of whoever asks something outside: one at a time."""

    @override
    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._patient.now_s

    @property
    def answers_awaited(self) -> int:
        """How many answers are awaited from outside, for which no time passes."""
        return self._patient.answers_awaited

    @answers_awaited.setter
    def answers_awaited(self, count: int) -> None:
        self._patient.answers_awaited = count

    @override
    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` a step later."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
                future.set_exception(error)

        self.call_soon(run)
        return future


class VirtualClock:
    """The wall clock of all servers: that of the loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return START_MS + int(self._loop.time() * 1000)

    def install(self) -> None:
        """Make it what the time module says, for those who ask there. For a process of its own."""
        time.monotonic = self._loop.time
        time.time = lambda: self.now_ms() / 1000
        time.time_ns = lambda: self.now_ms() * 1_000_000
