"""Who is online, in memory. Off by a setting: then nobody ever is.

Other servers are told, and believed of their own users, by another setting.

A user is online while a client syncs, unavailable when the client says so, and offline a while
after the last sync. What the user set by hand holds until the next change.

Spec: client-server API, "Presence".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from yizhan_config.tasks import Background
from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.ephemeral.counter import EphemeralCounter
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.storage.rooms import users_sharing_rooms
from yizhan_server.streams import Stream

STATES = ("online", "unavailable", "offline")
MAX_STATUS = 1000
"""Characters of a status message; everybody who shares a room with somebody is sent it."""
OFFLINE_AFTER_S = 60
REMOTE_OFFLINE_AFTER_S = 30 * 60
"""After the last that was heard of a user of another server."""
TOLD_EVERY_MS = 25 * 60 * 1000
"""Other servers are told again that somebody is still there."""
FEW = 100
"""Users of whom it is worth saying that they are offline."""
CURRENTLY_ACTIVE_MS = 60_000
"""Somebody who was seen within this time counts as active now."""


@dataclass(slots=True)
class _Presence:
    state: str
    status: str | None
    last_active_ms: int
    changed: int
    timer: asyncio.TimerHandle | None = None
    told_ms: int = 0


class Presence:
    """Remembers the presence of people."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        counter: EphemeralCounter,
        clock: Clock,
        background: Background,
        *,
        enabled: bool,
        tell: Callable[[UserID, dict[str, Any]], None] | None,
    ) -> None:
        """`tell` is told of the users of this server."""
        self._db = db
        self._background = background
        self._stream = stream
        self._counter = counter
        self._clock = clock
        self._enabled = enabled
        self._tell = tell
        self._users: dict[UserID, _Presence] = {}

    def seen(self, user_id: UserID, set_presence: str) -> None:
        """A client of the user syncs, and says what that means (`offline`: nothing)."""
        if set_presence != "offline":
            known = self._users.get(user_id)
            self._change(user_id, set_presence, None if known is None else known.status)

    def set(self, user_id: UserID, state: str, status: str | None) -> None:
        """The user sets presence and status message."""
        self._change(user_id, state, status)

    def receive(
        self, user_id: UserID, state: str, status: str | None, last_active_ago_ms: int
    ) -> None:
        """Take what another server says of its user."""
        # It says any number; one beyond 64 bits could be written in nobody's answer.
        ago_ms = min(max(0, last_active_ago_ms), self._clock.now_ms())
        self._change(user_id, state, status, ago_ms, REMOTE_OFFLINE_AFTER_S)

    def get(self, user_id: UserID) -> dict[str, Any]:
        """Return the content of the user's m.presence event."""
        known = self._users.get(user_id)
        if known is None:
            return {"presence": "offline"}
        ago_ms = max(0, self._clock.now_ms() - known.last_active_ms)
        content: dict[str, Any] = {"presence": known.state, "last_active_ago": ago_ms}
        if known.state == "online":
            content["currently_active"] = ago_ms < CURRENTLY_ACTIVE_MS
        if known.status is not None:
            content["status_msg"] = known.status
        return content

    def present(self) -> frozenset[UserID]:
        """Return who is not offline."""
        return frozenset(user for user, known in self._users.items() if known.state != "offline")

    def of(self, users: Collection[str]) -> dict[UserID, dict[str, Any]]:
        """Return the presence of `users`; of many users, only of those that were ever online."""
        if not self._enabled:
            return {}
        few = len(users) <= FEW
        return {
            UserID(user): self.get(UserID(user)) for user in users if few or user in self._users
        }

    def changed_after(self, value: int) -> dict[UserID, dict[str, Any]]:
        """Return the presence of those whose state changed after the counter was at `value`."""
        if value >= self._counter.value:
            return {}
        return {
            user_id: self.get(user_id)
            for user_id, known in self._users.items()
            if known.changed > value
        }

    def _change(
        self,
        user_id: UserID,
        state: str,
        status: str | None,
        ago_ms: int = 0,
        offline_after_s: float = OFFLINE_AFTER_S,
    ) -> None:
        if not self._enabled:
            return
        known = self._users.get(user_id)
        now_ms = self._clock.now_ms()
        if known is None:
            known = self._users[user_id] = _Presence("offline", None, now_ms, 0)
        if known.timer is not None:
            known.timer.cancel()
            known.timer = None
        if state != "offline":
            known.last_active_ms = now_ms - ago_ms
            known.timer = asyncio.get_running_loop().call_later(
                offline_after_s, self._expire, user_id
            )
        if (known.state, known.status) == (state, status):
            if state != "offline" and now_ms - known.told_ms >= TOLD_EVERY_MS:
                self._tell_others(user_id, known)
            return
        known.state, known.status = state, status
        known.changed = self._counter.next()
        self._tell_others(user_id, known)
        if not self._stream.closing:
            self._background.spawn("presence wake-up", self._wake_sharing(user_id))

    def _tell_others(self, user_id: UserID, known: _Presence) -> None:
        known.told_ms = self._clock.now_ms()
        if self._tell is not None:
            self._tell(user_id, self.get(user_id))

    async def _wake_sharing(self, user_id: UserID) -> None:
        # Not everybody: among thousands of long polls few concern this user.
        if self._stream.waiting():
            self._stream.wake([user_id, *await users_sharing_rooms(self._db, user_id)])

    def _expire(self, user_id: UserID) -> None:
        known = self._users[user_id]
        known.timer = None
        self._change(user_id, "offline", known.status)
