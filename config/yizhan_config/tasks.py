"""Supervised background tasks: none fails in silence, none is left behind.

The event loop keeps only weak references to tasks and tells nobody that one failed; that is why
bare `asyncio.create_task` is banned and everything that outlives a call is started here.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

log = logging.getLogger(__name__)


class EssentialTaskFailed(Exception):
    """A task without which the program is of no use has failed."""


class Started:
    """A task that runs in the background; may be dropped, the supervisor holds on to it."""

    # Not the task itself: mypy would have every caller await or assign an awaitable.
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    @property
    def done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self._task.done()

    @property
    def cancelled(self) -> bool:
        """Whether it ended because it was cancelled."""
        return self._task.cancelled()

    def cancel(self) -> None:
        """Ask it to end."""
        self._task.cancel()

    async def wait(self) -> None:
        """Wait until it has ended; never raises what it raised."""
        await asyncio.wait([self._task])


class Background:
    """The background tasks of one program, by name.

    Leaving the `async with` block cancels them all and waits for them. Delays are in seconds.
    """

    def __init__(
        self, *, first_delay: float = 1, longest_delay: float = 60, calm_after: float = 60
    ) -> None:
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._calm_after = calm_after
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._stopping = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def spawn(self, name: str, work: Coroutine[Any, Any, object]) -> Started:
        """Run `work` once; a failure is logged with its traceback."""
        return self._start(name, work)

    def keep(self, name: str, work: Callable[[], Awaitable[object]]) -> Started:
        """Run `work()`, and again after a growing delay whenever it fails, until it returns."""
        return self._start(name, self._run_again(name, work))

    def require(self, name: str, work: Callable[[], Awaitable[object]]) -> Started:
        """Run `work()`, whose failure ends the program: `failed` raises it."""
        return self._start(name, self._run_essential(name, work))

    async def failed(self) -> None:
        """Wait until a required task fails, and raise EssentialTaskFailed from its error."""
        await self._failure_future()

    @property
    def names(self) -> list[str]:
        """The names of the tasks that are running, sorted."""
        return sorted(task.get_name() for task in self._tasks)

    async def stop(self, *, grace: float = 10) -> None:
        """Cancel all tasks and wait until they have ended, at most `grace` seconds."""
        self._stopping = True
        if self._failure is not None and not self._failure.done():
            self._failure.cancel()
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=grace)
            for task in stuck:
                log.error("task does not end", extra={"task": task.get_name()})

    def _start(self, name: str, run: Coroutine[Any, Any, object]) -> Started:
        if self._stopping:
            run.close()
            raise RuntimeError(f"task {name} was started while the program stops")
        task = asyncio.create_task(run, name=name)  # noqa: TID251 (this is the supervisor)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return Started(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", exc_info=error, extra={"task": task.get_name()})

    async def _run_again(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        delay = self._first_delay
        while True:
            started = time.monotonic()
            try:
                await work()
            except Exception:
                if time.monotonic() - started >= self._calm_after:
                    delay = self._first_delay
                log.exception("task failed and will restart", extra={"task": name, "in_s": delay})
            else:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._longest_delay)

    async def _run_essential(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception as error:
            log.critical("required task failed", exc_info=error, extra={"task": name})
            failure = self._failure_future()
            if not failure.done():
                end = EssentialTaskFailed(name)
                end.__cause__ = error
                failure.set_exception(end)
                failure.exception()  # it has been logged: nobody has to wait in `failed`

    def _failure_future(self) -> asyncio.Future[None]:
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        return self._failure
