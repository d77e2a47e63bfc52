"""The counter of typing and presence: the part of a sync token that is not a stream position.

`boot` is random and made anew with the counter, so that a token of an earlier process resends the
current typing and presence once.
"""

from __future__ import annotations

import secrets


class EphemeralCounter:
    """Counts changes that are not durable."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(4)
        self.value = 0

    def next(self) -> int:
        """Count one more change."""
        self.value += 1
        return self.value
