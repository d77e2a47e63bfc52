"""Who is typing, in memory.

Spec: client-server API, "Typing Notifications".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from yizhan_server.ephemeral.counter import EphemeralCounter
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.room import Room
from yizhan_server.streams import Stream

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 120_000

Teller = Callable[[Room, UserID, bool], None]
"""Is told that somebody types in a room, or has stopped."""


class _TypingRoom:
    __slots__ = ("changed", "room", "timers")

    def __init__(self, room: Room) -> None:
        self.room = room
        self.changed = 0
        self.timers: dict[UserID, asyncio.TimerHandle] = {}


class Typing:
    """Remembers who types where until they stop or fall silent."""

    def __init__(self, stream: Stream, counter: EphemeralCounter, tell: Teller) -> None:
        self._stream = stream
        self._tell = tell
        self._counter = counter
        self._rooms: dict[str, _TypingRoom] = {}

    def set(self, room: Room, user_id: UserID, timeout_ms: int | None) -> None:
        """Somebody types for at most `timeout_ms` ms (bounded), or has stopped (None)."""
        here = self._rooms.get(room.room_id)
        if here is None:
            if timeout_ms is None:
                return
            here = self._rooms[room.room_id] = _TypingRoom(room)
        running = here.timers.pop(user_id, None)
        if running is not None:
            running.cancel()
        if timeout_ms is not None:
            here.timers[user_id] = asyncio.get_running_loop().call_later(
                min(timeout_ms, MAX_TIMEOUT_MS) / 1000, self._expire, here, user_id
            )
        if running is not None or timeout_ms is not None:
            # Again too when somebody goes on: other servers let it expire as this one does.
            self._tell(room, user_id, timeout_ms is not None)
        if (running is None) == (timeout_ms is None):
            return
        self._publish(here)

    def changed_after(self, value: int) -> dict[str, list[UserID]]:
        """Return who types, by room, where that changed after the counter was at `value`.

        With 0, only the rooms where somebody types.
        """
        return {
            room_id: list(here.timers)
            for room_id, here in self._rooms.items()
            if here.changed > value and (value or here.timers)
        }

    def of_every_room(self) -> dict[str, list[UserID]]:
        """Return who types, by room; also nobody, where somebody did.

        A client that begins anew may still show those who typed then.
        """
        return {room_id: list(here.timers) for room_id, here in self._rooms.items()}

    def _expire(self, here: _TypingRoom, user_id: UserID) -> None:
        if here.timers.pop(user_id, None) is not None:
            self._tell(here.room, user_id, False)  # noqa: FBT003 (a value, not a switch)
            self._publish(here)

    def _publish(self, here: _TypingRoom) -> None:
        here.changed = self._counter.next()
        self._stream.wake(here.room.concerned(self._stream.waiting()))
