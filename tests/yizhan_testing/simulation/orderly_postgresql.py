"""PostgreSQL that is asked one thing at a time, and whose answers take no time.

The server is a real one, outside of the simulation: how long it takes differs from run to run. So
that this makes no difference, only one statement is under way at a time, and its answer is looked
at when nothing else is to be done any more (`virtual_time`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import asyncpg  # type: ignore[import-untyped]

from yizhan_testing.simulation.virtual_time import VirtualLoop

_connect = asyncpg.connect


async def _in_turn(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask when nobody else does; who is cancelled meanwhile waits for the answer first.

    Else asyncpg would interrupt the statement by another connection.
    """
    loop = cast("VirtualLoop", asyncio.get_running_loop())

    async def asks() -> Any:
        async with loop.turn:
            loop.answers_awaited += 1
            try:
                return await ask()
            finally:
                loop.answers_awaited -= 1

    asking = loop.create_task(asks())
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        await asyncio.wait([asking])
        if not asking.cancelled():
            asking.exception()
        raise


class OrderlyConnection(asyncpg.Connection):  # type: ignore[misc]
    """Waits for its turn."""

    async def execute(self, *args: Any, **more: Any) -> Any:
        """See asyncpg."""
        return await _in_turn(lambda: asyncpg.Connection.execute(self, *args, **more))

    async def executemany(self, *args: Any, **more: Any) -> Any:
        """See asyncpg."""
        return await _in_turn(lambda: asyncpg.Connection.executemany(self, *args, **more))

    async def fetch(self, *args: Any, **more: Any) -> Any:
        """See asyncpg."""
        return await _in_turn(lambda: asyncpg.Connection.fetch(self, *args, **more))

    async def fetchrow(self, *args: Any, **more: Any) -> Any:
        """See asyncpg."""
        return await _in_turn(lambda: asyncpg.Connection.fetchrow(self, *args, **more))

    async def fetchval(self, *args: Any, **more: Any) -> Any:
        """See asyncpg."""
        return await _in_turn(lambda: asyncpg.Connection.fetchval(self, *args, **more))

    async def close(self, **more: Any) -> Any:
        """See asyncpg."""
        return await _in_turn(lambda: asyncpg.Connection.close(self, **more))


async def _connected(*args: Any, **more: Any) -> Any:
    return await _in_turn(lambda: _connect(*args, connection_class=OrderlyConnection, **more))


def install() -> None:
    """Have every connection that is made from now on be such a one. For a process of its own."""
    asyncpg.connect = _connected
