"""Events of rooms that are being joined: kept until the room is here.

The servers in a room send what happens from the moment in which one of them takes the join; here
the room's state is still being verified, for minutes if there are many members. Refused, such an
event would come no more. Most would be fetched when something follows them; but whoever is banned
meanwhile hears nothing more of the room, and would stay in it here.

They are in memory only: a join that a crash interrupts has to be begun again.

Spec: server-server API, "Joining Rooms", "Transactions".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from yizhan_database import DatabaseUnavailable
from yizhan_server.protocol.errors import MatrixError

if TYPE_CHECKING:
    from yizhan_config.tasks import Background
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.rooms.handshakes.handshakes import Handshakes

log = logging.getLogger(__name__)

MAX_EVENTS = 500
"""Events that are kept, of all rooms."""

MAX_OF_SERVER = 100
"""So many of them of one server: none takes the place of all others."""

PAUSES_S = (1, 4, 15, 60, 240, 300)
"""How long they wait again when they cannot be taken for now: their server was told that they are
here, and does not send them again. After ten minutes nothing is put off any more."""


class EarlyEvents:
    """Keeps them."""

    def __init__(self, background: Background, handshakes: Handshakes) -> None:
        self._background = background
        self._handshakes = handshakes
        self._kept: Counter[ServerName] = Counter()

    def keep(
        self,
        origin: ServerName,
        room_id: str,
        count: int,
        receive: Callable[[], Awaitable[object]],
    ) -> bool:
        """Have `receive` take `count` events when the room is here; whether they are kept.

        They are not when nobody is joining the room.
        """
        if not self._handshakes.is_being_joined(room_id):
            return False
        if self._kept[origin] + count > MAX_OF_SERVER or self._kept.total() + count > MAX_EVENTS:
            log.info("early events not kept", extra={"origin": origin})
            return False
        self._kept[origin] += count
        self._background.spawn("early events", self._receive(origin, room_id, count, receive))
        return True

    async def _receive(
        self,
        origin: ServerName,
        room_id: str,
        count: int,
        receive: Callable[[], Awaitable[object]],
    ) -> None:
        try:
            await self._handshakes.until_joined(room_id)
            for pause_s in PAUSES_S:
                if await _is_done(receive):
                    return
                await asyncio.sleep(pause_s)
            await _is_done(receive)
        finally:
            self._kept[origin] -= count
            self._kept += Counter()  # forget those with none


async def _is_done(receive: Callable[[], Awaitable[object]]) -> bool:
    """Have the events taken; False if that cannot be for now."""
    try:
        await receive()
    except DatabaseUnavailable:
        return False
    except MatrixError as error:
        log.info("early events not taken", extra={"why": error.errcode})
        return error.status < 500
    return True
