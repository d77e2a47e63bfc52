"""Waiting until somebody's long poll waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
