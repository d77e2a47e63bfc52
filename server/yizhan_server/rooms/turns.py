"""Taking turns on the event loop in long computations."""

from __future__ import annotations

import asyncio
import time

TURN_S = 0.005


class Turns:
    """Lets others run when one has run for some milliseconds.

    Reads of SQLite do not suspend: whoever makes many of them, or computes long, offers a pause
    after every few.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def offer(self) -> None:
        """Let others run if this turn has been long enough."""
        if time.monotonic() - self._began >= TURN_S:
            await asyncio.sleep(0)
            self._began = time.monotonic()
