"""What the encryption of mautrix remembers, in memory.

To be imported only where mautrix and python-olm are installed.
"""

from __future__ import annotations

from typing import Any

from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import MemoryCryptoStore, StateStore
from mautrix.types import TOFUSigningKey
from typing_extensions import override


class RoomKnowledge(StateStore):
    """The same, as its encryption asks for it."""

    def __init__(self, state: MemoryStateStore) -> None:
        self._state = state

    @override
    async def is_encrypted(self, room_id: Any) -> bool:
        return bool(await self._state.is_encrypted(room_id))

    @override
    async def get_encryption_info(self, room_id: Any) -> Any:
        return await self._state.get_encryption_info(room_id)

    @override
    async def find_shared_rooms(self, user_id: Any) -> list[Any]:
        return [room for room, members in self._state.members.items() if user_id in members]


class Keys(MemoryCryptoStore):
    """The framework's own store in memory assigns to a field of a tuple."""

    @override
    async def put_cross_signing_key(self, user_id: Any, usage: Any, key: Any) -> None:
        known = self._cross_signing_keys.setdefault(user_id, {})
        first = known[usage].first if usage in known else key
        known[usage] = TOFUSigningKey(key=key, first=first)
