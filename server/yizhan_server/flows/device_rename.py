"""Renaming a device: others see the name beside its keys, so their lists must learn of it."""

from __future__ import annotations

from yizhan_server.accounts.sessions import Sessions
from yizhan_server.e2ee.device_changes import DeviceChanges
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.storage.device_changes import ChangeKind


class DeviceRename:
    """Changes the names of devices."""

    def __init__(self, sessions: Sessions, changes: DeviceChanges) -> None:
        self._sessions = sessions
        self._changes = changes

    async def rename(self, user_id: UserID, device_id: str, display_name: str | None) -> None:
        """Name a device (None leaves it as it is), or answer M_NOT_FOUND."""
        await self._sessions.rename(
            user_id,
            device_id,
            display_name,
            lambda tx: self._changes.record(tx, user_id, [device_id], ChangeKind.KEYS),
        )
