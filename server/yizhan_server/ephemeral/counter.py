"""The counter of typing and presence: the part of a sync token that is not a stream position.

`boot` is random and made anew with the counter, so that a token of an earlier process resends the
current typing and presence once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class EphemeralCounter:
    """Counts changes that are not durable."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(4)
        self.value = 0
        self._followers: set[Callable[[], None]] = set()

    def next(self) -> int:
        """Count one more change."""
        self.value += 1
        for call in self._followers:
            call()
        return self.value

    @contextmanager
    def follow(self, call: Callable[[], None]) -> Iterator[None]:
        """While this lasts, `call` is made at every change; it must not wait."""
        self._followers.add(call)
        try:
            yield
        finally:
            self._followers.discard(call)
