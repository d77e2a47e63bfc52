"""Keeps the removal of files and the arrival of the same bytes apart.

An upload puts its file in place and then commits the row that names it. A removal in between would
take the file from under the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Placing:
    """Many may place files at once, or one remove some; whoever removes goes first."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self._placing = 0
        self._is_removing = False

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """While this lasts, nothing is removed."""
        async with self._condition:
            await self._condition.wait_for(lambda: not self._is_removing)
            self._placing += 1
        try:
            yield
        finally:
            async with self._condition:
                self._placing -= 1
                self._condition.notify_all()

    @asynccontextmanager
    async def remove(self) -> AsyncIterator[None]:
        """While this lasts, nothing is placed."""
        async with self._condition:
            await self._condition.wait_for(lambda: not self._is_removing)
            self._is_removing = True
            try:
                await self._condition.wait_for(lambda: not self._placing)
            except BaseException:
                self._is_removing = False
                self._condition.notify_all()
                raise
        try:
            yield
        finally:
            async with self._condition:
                self._is_removing = False
                self._condition.notify_all()
