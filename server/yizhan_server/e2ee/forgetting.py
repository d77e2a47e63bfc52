"""What becomes of keys when devices or accounts end.

Spec: client-server API, "Deleting devices", "Account deactivation".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.storage import e2ee_keys, key_backup, to_device
from yizhan_server.storage.device_changes import NO_DEVICE, ChangeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_database import Transaction
    from yizhan_server.e2ee.device_changes import DeviceChanges
    from yizhan_server.protocol.identifiers import DeviceID, UserID


class KeyForgetter:
    """Records removals into the commit that ends a device or an account."""

    def __init__(self, changes: DeviceChanges) -> None:
        self._changes = changes

    def forget_devices(
        self, tx: Transaction, user_id: UserID, device_ids: Sequence[DeviceID]
    ) -> None:
        """Record the end of these devices: their keys, and the messages that wait for them."""
        self._changes.record(tx, user_id, device_ids, ChangeKind.DELETED)
        e2ee_keys.delete_devices(tx, user_id, device_ids)
        to_device.delete_all_messages(tx, user_id, device_ids)

    def forget_user(self, tx: Transaction, user_id: UserID) -> None:
        """Record the end of what belongs to the account itself: identity, signatures, backups."""
        e2ee_keys.delete_cross_signing(tx, user_id)
        key_backup.delete_backups(tx, user_id)
        self._changes.record(tx, user_id, [NO_DEVICE], ChangeKind.CROSS_SIGNING)
