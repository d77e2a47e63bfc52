"""Waiting for something to tell: the same for both syncs.

Spec: client-server API, "Syncing" (`timeout`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from yizhan_server.accounts.requester import Requester
from yizhan_server.streams import Stream

AnswerT = TypeVar("AnswerT")


async def wait_for_answer(
    stream: Stream,
    requester: Requester,
    connection: str | None,
    timeout_ms: int,
    build: Callable[[], Awaitable[tuple[AnswerT, bool]]],
) -> AnswerT:
    """Return what `build` returns, as soon as it says that there is something in it.

    At the latest that is at the time-out, when the server stops, or when the same connection of
    the same device asks anew.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    with stream.listen(requester.user_id, requester.device_id, connection) as listener:
        while True:
            answer, changed = await build()
            if changed or stream.closing or listener.superseded:
                return answer
            if not await listener.heard(deadline - loop.time()):
                return answer
