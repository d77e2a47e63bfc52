"""The rooms in memory: loaded when asked for, forgotten when idle and many."""

from __future__ import annotations

from collections import OrderedDict

from yizhan_database import Database
from yizhan_server.protocol.errors import NotFound
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import rooms as stored_rooms

CACHED_ROOMS = 2000


class Rooms:
    """Finds rooms by id, one `Room` instance each."""

    def __init__(self, db: Database, keys: StateKeys, server_name: str) -> None:
        self._db = db
        self._keys = keys
        self._server_name = server_name
        self._rooms: OrderedDict[str, Room] = OrderedDict()

    async def find(self, room_id: str) -> Room | None:
        """Return a room that this server knows, or None."""
        room = self._rooms.get(room_id)
        if room is not None:
            self._rooms.move_to_end(room_id)
            return room
        stored = await stored_rooms.find_room(self._db, room_id)
        if stored is None:
            return None
        return self.add(Room(self._db, self._keys, self._server_name, stored))

    async def get(self, room_id: str) -> Room:
        """Return a room that this server knows, or answer M_NOT_FOUND."""
        room = await self.find(room_id)
        if room is None:
            raise NotFound("This server does not know the room")
        return room

    async def by_nid(self, nids: list[int]) -> dict[int, Room]:
        """Return these rooms by number."""
        ids = await stored_rooms.room_ids(self._db, nids)
        return {nid: await self.get(room_id) for nid, room_id in ids.items()}

    def add(self, room: Room) -> Room:
        """Keep a room; the instance that was there first wins."""
        kept = self._rooms.setdefault(room.room_id, room)
        # A room with a held lock or an undurable tail must stay: a second instance of it
        # would build on the same head.
        surplus = len(self._rooms) - CACHED_ROOMS
        if surplus > 0:
            idle = [
                room_id
                for room_id, other in self._rooms.items()
                if other is not kept and not other.lock.locked() and other.tail is other.committed
            ]
            for room_id in idle[:surplus]:
                del self._rooms[room_id]
        return kept

    def forget(self, room_id: str) -> None:
        """Drop a room that has been removed from the database."""
        self._rooms.pop(room_id, None)

    def loaded(self) -> list[Room]:
        """Return the rooms in memory."""
        return list(self._rooms.values())
