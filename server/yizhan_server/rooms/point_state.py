"""The state at a place of the state log, event by event."""

from __future__ import annotations

from yizhan_database import Database
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.room import StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import Merge
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.state import StateKey


class PointState:
    """Reads the state at a durable place, merged or not."""

    def __init__(self, db: Database, keys: StateKeys, version: RoomVersion, merge: Merge) -> None:
        self._db = db
        self._keys = keys
        self._version = version
        self._merge = merge

    async def event(self, key: StateKey) -> StateEvent | None:
        """Return the state event of a key."""
        number = await self._keys.find(key)
        if number is None:
            return None
        nid = await self.number_of(number)
        if not nid:
            return None
        pdus = await stored_events.pdus_by_nid(self._db, [nid], self._version)
        return StateEvent(nid, pdus[nid])

    async def number_of(self, key: int) -> int:
        """Return the number of the event of a key's number; 0 for none."""
        changed = self._merge.changes.get(key)
        if changed is not None:
            return changed
        return await stored_state.state_event_at(self._db, self._merge.base, key) or 0
