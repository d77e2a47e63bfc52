"""How somebody on the far server comes to read numbered messages that were said on the near one.

Looking costs the server that is measured, so it is looked seldom and little; all is read only when
the last has come. A server need not get every event by itself: what it lacks it may fetch when
somebody pages back, and is then read again from where something was missing.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from bench.people import Api, Person

_NEWEST = 32
"""Events of a look: those who send at once may overtake the last one, though not twice over."""
_PAGE = 100
_STILL_S = 5.0
"""After so long without anything new, what came is read although the last is not there; then after
twice as long, and so on: reading costs most, and may well be in vain.
"""
_COUNTING_S = 60


class Arrivals:
    """The messages `WORD 0.`, `WORD 1.`, ... of a room, and which of them were read so far."""

    def __init__(self, api: Api, reader: Person, room: str, word: str, count: int) -> None:
        self._api = api
        self._reader = reader
        self._room = room
        self._pattern = re.compile(rf": {word} (\d+)\.$")
        self._count = count
        self._from = ""
        """As a part of a query, the place above which nothing is missing."""
        self._began = 0.0
        self._still_s = _STILL_S
        self.missing = set(range(count))

    @property
    def read(self) -> int:
        return self._count - len(self.missing)

    async def wait(self, began: float, within_s: float) -> None:
        """Return when all were read, or what came within `within_s`."""
        self._began = began
        try:
            async with asyncio.timeout(within_s):
                while True:
                    await self._look()
                    await self._page_back()
                    if not self.missing:
                        return
                    print(f"    {len(self.missing)} are missing yet", file=sys.stderr)
                    await self._pause()
        except TimeoutError:
            with suppress(TimeoutError):
                async with asyncio.timeout(_COUNTING_S):
                    await self._page_back()  # so that what did come is counted

    async def _look(self) -> None:
        """Return once the last message is among the newest, or nothing more seems to come."""
        before: set[int] = set()
        changed = time.monotonic()
        while time.monotonic() - changed < self._still_s:
            newest = self._numbers(await self._page(f"limit={_NEWEST}"))
            if self._count - 1 in newest:
                return
            if newest != before:
                before, changed = newest, time.monotonic()
            await self._pause()
        self._still_s *= 2

    async def _pause(self) -> None:
        """Wait in proportion to the time so far, as is then what looking costs and blurs."""
        await asyncio.sleep(min(2, max(0.05, (time.perf_counter() - self._began) / 20)))

    async def _page_back(self) -> None:
        """Read back from where something is missing, as far as that can be."""
        start = self._from
        for _ in range(self._count // 50 + 2):
            page = await self._page(f"limit={_PAGE}{start}")
            numbers = self._numbers(page)
            self.missing -= numbers
            if not self.missing or "end" not in page:
                return
            if numbers and max(self.missing) < min(numbers):
                self._from = start  # and not its end: there is no strict order among many senders
            start = f"&from={quote(page['end'])}"

    async def _page(self, query: str) -> dict[str, Any]:
        path = f"/rooms/{quote(self._room)}/messages?dir=b&{query}"
        return await self._api.ask("GET", path, person=self._reader)

    def _numbers(self, page: dict[str, Any]) -> set[int]:
        bodies = (str(event["content"].get("body", "")) for event in page["chunk"])
        return {int(found[1]) for body in bodies if (found := self._pattern.search(body))}
