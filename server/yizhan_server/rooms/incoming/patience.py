"""For how long events are put off because of what some server does not say for now.

Refused, an event is dealt with for its server, and lost here until something refers to it; taken
without what belongs to it, it may be judged otherwise than everywhere else. So its server is told
to send it again. But one that can reach us and cannot be reached would never be heard: whoever
holds up its own events for long enough has them taken, or refused, as they are.
"""

from __future__ import annotations

from yizhan_server.clock import Clock
from yizhan_server.protocol.identifiers import ServerName

PATIENCE_MS = 10 * 60_000
"""For so long events are put off ..."""

IMPATIENT_MS = 60 * 60_000
"""... and from then on, so long after the first, they are not."""

Key = tuple[int, ServerName]
"""A room and the server that sends its events."""


class Patience:
    """Remembers since when it is tried."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[Key, int] = {}

    def is_left(self, key: Key) -> bool:
        """Whether to put off events of a server once more."""
        if key not in self._since:
            return True
        tried_ms = self._clock.now_ms() - self._since[key]
        if tried_ms > IMPATIENT_MS:
            del self._since[key]
        return tried_ms < PATIENCE_MS or tried_ms > IMPATIENT_MS

    def try_more(self, key: Key) -> None:
        """Note that events are put off."""
        self._since.setdefault(key, self._clock.now_ms())

    def restore(self, key: Key) -> None:
        """Note that there is nothing to wait for."""
        self._since.pop(key, None)
