"""The published end of the stream, wake-ups of long polls, and followers.

`position` is what readers may see: everything up to it is durable, and every in-memory copy
of it has been updated. It moves only in `publish`, which the writer's after-commit callbacks
call on the event loop in commit order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager


class Listener:
    """One long poll's ear. Made *before* looking for changes, so that none slips between."""

    __slots__ = ("_event", "superseded")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.superseded = False
        """A newer long poll of the same device has taken over; answer what there is."""

    def wake(self) -> None:
        """Something concerning this user may have changed."""
        self._event.set()

    def supersede(self) -> None:
        """End the wait: the device itself asks anew."""
        self.superseded = True
        self._event.set()

    async def heard(self, timeout_s: float) -> bool:
        """Wait for a wake-up; False after `timeout_s` seconds. Ready for the next wake-up."""
        if not self._event.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._event.wait()
            except TimeoutError:
                return False
        self._event.clear()
        return True


class Stream:
    """Position, wake-ups, followers. One per process."""

    def __init__(self, epoch: str, position: int) -> None:
        self.epoch = epoch
        """Random, made with the database; a sync token of another epoch means nothing here."""
        self.position = position
        self._listeners: dict[str, dict[tuple[str, str | None], Listener]] = {}
        self._followers: set[asyncio.Event] = set()
        self.closing = False

    def publish(self, position: int) -> None:
        """Make everything up to `position` visible. Called after commit, in commit order."""
        self.position = max(self.position, position)
        for follower in self._followers:
            follower.set()

    def waiting(self) -> AbstractSet[str]:
        """Return the users with a long poll, as a set-like view."""
        return self._listeners.keys()

    def wake(self, users: Iterable[str]) -> None:
        """Wake these users' long polls; for a room pass `room.local_users & stream.waiting()`."""
        for user in users:
            for listener in self._listeners.get(user, {}).values():
                listener.wake()

    def wake_device(self, user: str, device: str) -> None:
        """Wake one device's long polls."""
        for (of_device, _), listener in self._listeners.get(user, {}).items():
            if of_device == device:
                listener.wake()

    @contextmanager
    def listen(self, user: str, device: str, connection: str | None = None) -> Iterator[Listener]:
        """Register a long poll of a device; it takes over from the previous one.

        A device has one classic sync (None), and sliding ones by their connections' names.
        """
        listener = Listener()
        key = (device, connection)
        of_user = self._listeners.setdefault(user, {})
        previous = of_user.get(key)
        if previous is not None:
            previous.supersede()
        of_user[key] = listener
        try:
            yield listener
        finally:
            if of_user.get(key) is listener:
                del of_user[key]
                if not of_user and self._listeners.get(user) is of_user:
                    del self._listeners[user]

    @contextmanager
    def follow(self) -> Iterator[asyncio.Event]:
        """Register a follower: its event is set at every publication; it clears it itself."""
        event = asyncio.Event()
        self._followers.add(event)
        try:
            yield event
        finally:
            self._followers.discard(event)

    async def follow_from_now(self, look: Callable[[int, int], Awaitable[None]]) -> None:
        """Call `look` with every (after, upto] that is published from now on, until the end.

        For those to whom it does no harm that what came before, or while `look` failed, is lost.
        """
        after = self.position
        with self.follow() as published:
            while not self.closing:
                published.clear()
                upto = self.position
                if upto > after:
                    await look(after, upto)
                    after = upto
                await published.wait()

    def close(self) -> None:
        """End every wait: the server is stopping."""
        self.closing = True
        for of_user in self._listeners.values():
            for listener in of_user.values():
                listener.wake()
        for follower in self._followers:
            follower.set()
