"""Events of rooms that are being joined: kept until the room is here.

The servers in a room send what happens from the moment in which one of them takes the join; here
the room's state is still being verified, for minutes if there are many members. Refused, such an
event would come no more. Most would be fetched when something follows them; but whoever is banned
meanwhile hears nothing more of the room, and would stay in it here.

They are in memory only: a join that a crash interrupts has to be begun again.

Spec: server-server API, "Joining Rooms", "Transactions".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import MatrixError

if TYPE_CHECKING:
    from yizhan_config.tasks import Background
    from yizhan_server.rooms.handshakes.handshakes import Handshakes

log = logging.getLogger(__name__)

MAX_EVENTS = 500
"""Events that are kept, of all rooms."""


class EarlyEvents:
    """Keeps them."""

    def __init__(self, background: Background, handshakes: Handshakes) -> None:
        self._background = background
        self._handshakes = handshakes
        self._kept = 0

    def keep(self, room_id: str, count: int, receive: Callable[[], Awaitable[object]]) -> bool:
        """Have `receive` take `count` events when the room is here; whether they are kept.

        They are not when nobody is joining the room.
        """
        if not self._handshakes.is_being_joined(room_id) or self._kept + count > MAX_EVENTS:
            return False
        self._kept += count
        self._background.spawn("early events", self._receive(room_id, count, receive))
        return True

    async def _receive(
        self, room_id: str, count: int, receive: Callable[[], Awaitable[object]]
    ) -> None:
        try:
            await self._handshakes.until_joined(room_id)
            await receive()
        except MatrixError as error:
            log.info("early events not taken", extra={"why": error.errcode})
        finally:
            self._kept -= count
