"""Optimistic writes: read, decide, commit behind a guard, and begin anew where it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from yizhan_database import GuardFailed
from yizhan_server.protocol.errors import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Result = TypeVar("Result")

ATTEMPTS = 20
"""Each round of racing writers has a winner, so that only a crowd of one user's own devices
comes near this."""


async def until_committed(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Run `attempt` until its guards hold; M_LIMIT_EXCEEDED when they never do."""
    for _ in range(ATTEMPTS):
        try:
            return await attempt()
        except GuardFailed:
            continue
    raise LimitExceeded(1000, "Too many changes of the same thing at once")
