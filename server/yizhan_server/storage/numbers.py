"""Numbers for rows, from blocks reserved in advance; gaps are allowed."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from yizhan_database import Database

BLOCK = 1000


class Numbers:
    """Hands out the next number of each counter without a write per number."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._left: dict[str, list[int]] = defaultdict(list)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def next(self, counter: str) -> int:
        """Return a number that nobody else gets, greater than those given by this process."""
        left = self._left[counter]
        if not left:
            async with self._locks[counter]:
                if not left:
                    left.extend(reversed(await self._db.reserve(counter, BLOCK)))
        return left.pop()
