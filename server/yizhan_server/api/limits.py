"""Rate limits: one token bucket per kind and caller, in memory.

A bucket is two numbers; full ones are forgotten, so the memory follows the number of callers
that were active within the last burst, not of all that ever came.

Spec: client-server API, "Rate limiting".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from yizhan_server.clock import Clock
from yizhan_server.protocol.errors import MatrixError

_SWEEP_EVERY = 10_000
"""Checks between two sweeps of full buckets."""


class Rate(Protocol):
    """One configured limit."""

    @property
    def per_second(self) -> float:
        """Calls that become allowed each second."""

    @property
    def burst(self) -> int:
        """Calls allowed at once after a pause."""


class RateLimits:
    """Answers M_LIMIT_EXCEEDED when a caller is too fast for a kind of call."""

    def __init__(
        self,
        rates: Mapping[str, Rate],
        clock: Clock,
        exempt: Collection[str] = (),
        special: Mapping[tuple[str, str], Rate] | None = None,
    ) -> None:
        self._rates = rates
        self._special = special or {}
        """By kind and caller; instead of those that hold for everybody."""
        self._exempt = frozenset(exempt)
        self._clock = clock
        self._buckets: dict[tuple[str, str], tuple[float, int]] = {}
        self._checks = 0

    def check(self, kind: str, caller: str) -> None:
        """Count one call; raise 429 with the time to wait when the bucket is empty."""
        rate = self._special.get((kind, caller)) or self._rates.get(kind)
        if rate is None or caller in self._exempt:
            return
        now_ms = self._clock.now_ms()
        key = (kind, caller)
        tokens, since_ms = self._buckets.get(key, (float(rate.burst), now_ms))
        tokens = min(float(rate.burst), tokens + (now_ms - since_ms) * rate.per_second / 1000)
        if tokens < 1:
            retry_after_ms = int((1 - tokens) * 1000 / rate.per_second) + 1
            raise MatrixError(
                429, "M_LIMIT_EXCEEDED", "Too many requests", retry_after_ms=retry_after_ms
            )
        self._buckets[key] = (tokens - 1, now_ms)
        self._checks += 1
        if self._checks % _SWEEP_EVERY == 0:
            self._sweep(now_ms)

    def _sweep(self, now_ms: int) -> None:
        self._buckets = {
            key: (tokens, since_ms)
            for key, (tokens, since_ms) in self._buckets.items()
            for rate in (self._special.get(key) or self._rates[key[0]],)
            if tokens + (now_ms - since_ms) * rate.per_second / 1000 < rate.burst
        }
