"""Initial answers of /sync, each computed once for a client that comes again.

The first answer of a large account takes a while; a client that gives up waiting, or whose
connection breaks, asks the same anew. It then joins what is being computed, or gets what has been
computed meanwhile; else it would time out again and again, and each attempt would cost as much
as the first. The answer is from a moment ago then: what has come since, the client is told next.

Kept is only what was slow. Most answers are made in the time that it takes to look them up, and
are new that way.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from yizhan_server.sync.rooms import SyncDevice

LIFETIME_S = 180.0
SLOW_S = 1.0
MAX_BYTES = 1 << 26
"""Of all that is kept; the oldest goes first."""

Client = tuple[str, str]


@dataclass(slots=True, eq=False)
class _Initial:
    """One answer, to be or made."""

    device: SyncDevice
    """With all that the answer depends on: filter, ignored people."""
    token: int
    """The session: who signs in anew under an old device's name is somebody new."""
    answer: asyncio.Future[bytes]

    @property
    def size(self) -> int:
        done = self.answer.done() and not self.answer.cancelled()
        return len(self.answer.result()) if done else 0


class InitialSyncs:
    """Keeps at most one answer of each device, until the client shows that it has it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Client, _Initial] = OrderedDict()

    async def answer(
        self, device: SyncDevice, token: int, build: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """Return what `build` returns, or has returned to the same question a moment ago."""
        client = (device.user_id, device.device_id)
        known = self._kept.get(client)
        if known is not None and (known.device, known.token) == (device, token):
            return await asyncio.shield(known.answer)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        initial = _Initial(device, token, loop.create_future())
        self._kept[client] = initial
        self._kept.move_to_end(client)
        try:
            answer = await build()
        except BaseException as error:
            self._drop(client, initial)
            if isinstance(error, Exception):
                initial.answer.set_exception(error)
                initial.answer.exception()  # nobody may be waiting for it but this caller
            else:
                initial.answer.cancel()
            raise
        initial.answer.set_result(answer)
        if loop.time() - begun < SLOW_S or len(answer) > MAX_BYTES:
            self._drop(client, initial)
        else:
            loop.call_later(LIFETIME_S, self._drop, client, initial)
            self._make_room()
        return answer

    def received(self, user_id: str, device_id: str) -> None:
        """The client goes on from an answer: none is to be given again."""
        self._kept.pop((user_id, device_id), None)

    def _drop(self, client: Client, initial: _Initial) -> None:
        if self._kept.get(client) is initial:
            del self._kept[client]

    def _make_room(self) -> None:
        surplus = sum(initial.size for initial in self._kept.values()) - MAX_BYTES
        for client, initial in list(self._kept.items()):
            if surplus <= 0:
                break
            surplus -= initial.size
            if initial.size:
                del self._kept[client]
