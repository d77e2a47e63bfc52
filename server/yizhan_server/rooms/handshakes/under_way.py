"""The joins that are under way, and how far each has come: for administrators, and in the log.

A room of tens of thousands of members takes its time; whoever waits for it is to be told that it
comes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from yizhan_server.clock import Clock
from yizhan_server.protocol.identifiers import RoomID, ServerName, UserID
from yizhan_server.rooms.incoming.state_intake import Taken

log = logging.getLogger(__name__)

STEP = 1000
"""After so many events a line is logged."""


@dataclass(slots=True)
class JoinUnderWay:
    """One of them."""

    room_id: RoomID
    user_id: UserID
    server: ServerName
    since_ms: int
    taken: Taken | None = None
    """None while the other server's answer is awaited."""
    _told: int = 0

    def note(self, taken: Taken) -> None:
        """Remember how far it has come."""
        self.taken = taken
        if taken.done // STEP > self._told:
            self._told = taken.done // STEP
            log.info("join: state of the room is taken", extra=self._fields(taken))

    def ends(self) -> None:
        """Say that the room is here."""
        if self.taken is not None:
            log.info("join: the room is here", extra=self._fields(self.taken))

    def _fields(self, taken: Taken) -> dict[str, object]:
        return {
            "room_id": self.room_id, "server": self.server,
            "events": taken.done, "of": taken.total, "known_before": taken.known,
        }  # fmt: skip


class JoinsUnderWay:
    """All of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._joins: list[JoinUnderWay] = []

    def __iter__(self) -> Iterator[JoinUnderWay]:
        return iter(self._joins)

    @contextmanager
    def follow(
        self, server: ServerName, room_id: RoomID, user_id: UserID
    ) -> Iterator[JoinUnderWay]:
        """Count a join as under way while the block lasts."""
        join = JoinUnderWay(room_id, user_id, server, self._clock.now_ms())
        self._joins.append(join)
        try:
            yield join
        finally:
            self._joins.remove(join)
