"""How many messages of one person are handled: a burst, then a steady rate. Later ones wait."""

from __future__ import annotations

BURST = 20
PER_SECOND = 1.0
_MOST_PERSONS = 10_000


class Rates:
    """A bucket of tokens for each person, in memory."""

    def __init__(self, burst: int = BURST, per_second: float = PER_SECOND) -> None:
        self._burst = burst
        self._per_ms = per_second / 1000
        self._full_ms: dict[str, float] = {}

    def take(self, user_id: str, now_ms: int) -> int:
        """Take one token; 0, or the milliseconds after which to try again."""
        # `full` is when the bucket will be full again: one number instead of level and time.
        full = max(self._full_ms.get(user_id, 0.0), now_ms) + 1 / self._per_ms
        wait = full - now_ms - self._burst / self._per_ms
        if wait > 0:
            return int(wait) + 1
        if len(self._full_ms) >= _MOST_PERSONS:
            self._full_ms = {u: f for u, f in self._full_ms.items() if f > now_ms}
        self._full_ms[user_id] = full
        return 0
