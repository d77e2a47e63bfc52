"""Rooms that an administrator keeps the people of this server out of."""

from __future__ import annotations

from yizhan_database import Database
from yizhan_server.protocol.errors import Forbidden
from yizhan_server.storage.room_blocks import find_block


async def check_not_blocked(db: Database, room_id: str) -> None:
    """Answer M_FORBIDDEN for a room that is blocked, or being removed."""
    if await find_block(db, room_id) is not None:
        raise Forbidden("This room has been blocked on this server")
