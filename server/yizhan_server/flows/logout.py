"""Signing out: the end of devices, with everything that hangs on them, in one commit.

Devices and tokens are `accounts`'; keys, to-device messages and device-list changes are
`e2ee`'s; pushers go too. Each family plugs in a `DeviceForgetter`, which records its own
deletions; so a crash leaves neither keys without a device nor a token without keys.

Spec: client-server API, "/logout", "/logout/all", "/delete_devices".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from yizhan_database import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from yizhan_database import Database
    from yizhan_server.accounts.sessions import Sessions
    from yizhan_server.protocol.identifiers import DeviceID, UserID


class DeviceForgetter(Protocol):
    """Records the removal of what one family keeps about devices (after-commit calls included)."""

    def __call__(self, tx: Transaction, user_id: UserID, device_ids: Sequence[DeviceID], /) -> None:
        """Record into `tx`. `device_ids` are a user's devices that existed just now; not empty."""


class Logout:
    """Ends devices."""

    def __init__(
        self, db: Database, sessions: Sessions, forgetters: Sequence[DeviceForgetter]
    ) -> None:
        self._db = db
        self._sessions = sessions
        self._forgetters = forgetters

    async def end(
        self,
        user_id: UserID,
        device_ids: Collection[str],
        also: Callable[[Transaction], None] | None = None,
    ) -> None:
        """End those of the user's devices that exist; others are ignored.

        `also` records what belongs into the same commit, when there is one.
        """
        asked = set(device_ids)
        ending = [
            device.device_id
            for device in await self._sessions.find_all(user_id)
            if device.device_id in asked
        ]
        if not ending:
            return
        tx = Transaction()
        self._sessions.record_end(tx, user_id, ending)
        self._forget(tx, user_id, ending)
        if also is not None:
            also(tx)
        await self._db.commit(tx)

    async def end_all(self, user_id: UserID) -> None:
        """End all of the user's devices."""
        devices = await self.find_device_ids(user_id)
        tx = Transaction()
        self.record_end_of_all(tx, user_id, devices, kept=None)
        await self._db.commit(tx)

    async def find_device_ids(self, user_id: UserID) -> list[DeviceID]:
        """Return what `record_end_of_all` needs to be told."""
        return [device.device_id for device in await self._sessions.find_all(user_id)]

    def record_end_of_all(
        self,
        tx: Transaction,
        user_id: UserID,
        devices: Sequence[DeviceID],
        *,
        kept: DeviceID | None,
    ) -> None:
        """Record the end of all `devices` but `kept` into a larger change."""
        self._sessions.record_end_of_all(tx, user_id, kept)
        self._forget(tx, user_id, [device for device in devices if device != kept])

    def _forget(self, tx: Transaction, user_id: UserID, devices: Sequence[DeviceID]) -> None:
        if devices:
            for forget in self._forgetters:
                forget(tx, user_id, devices)
