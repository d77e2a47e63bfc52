"""The published room directories of application services' networks.

Spec: application service API, "Published room directories".
"""

from __future__ import annotations

from yizhan_database import Database, Transaction
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.rooms.room import Room
from yizhan_server.storage import appservices as storage

MAX_NETWORK_BYTES = 255


class NetworkDirectories:
    """Which rooms each network lists; `search.room_directory` shows them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def set_listed(
        self, service_id: str, network_id: str, room: Room, *, listed: bool
    ) -> None:
        """List a room in a network's directory, or not."""
        if len(network_id.encode()) > MAX_NETWORK_BYTES:
            raise InvalidParam("The network's id is too long")
        tx = Transaction()
        if listed:
            storage.append_network_room(tx, service_id, network_id, room.nid)
        else:
            storage.delete_network_room(tx, service_id, network_id, room.nid)
        await self._db.commit(tx)
