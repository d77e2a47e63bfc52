"""Waiting for long polls: until one waits, or until one has brought what is awaited."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yizhan_testing.homeserver import HomeserverInProcess, Person

ROUND_TRIPS = 5
"""After so many calls of one's own, a poll that has been registered has found nothing and waits."""


async def polls(homeserver: HomeserverInProcess, person: Person) -> None:
    """Return when the person's long poll listens and has looked for changes."""
    waiting = homeserver.parts.stream.waiting()
    while person.user_id not in waiting:
        await person.get("/v3/account/whoami")
    for _ in range(ROUND_TRIPS):
        await person.get("/v3/account/whoami")


async def until(person: Person, check: Callable[[], Awaitable[None]], within_s: float = 20) -> None:
    """Return when `check` passes; it is repeated whenever the person's /sync has news."""
    async with asyncio.timeout(within_s):
        while True:
            await person.syncs()
            try:
                await check()
            except AssertionError:
                await person.syncs(timeout_ms=1000)
            else:
                return
