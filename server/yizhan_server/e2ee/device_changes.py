"""Recording that a user's devices or cross-signing keys changed, and waking whom it concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.storage import device_changes as storage
from yizhan_server.storage.device_changes import ChangeKind
from yizhan_server.storage.rooms import users_sharing_rooms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yizhan_config.tasks import Background
    from yizhan_database import Commit, Database, Pos, Transaction
    from yizhan_server.protocol.identifiers import DeviceID, UserID
    from yizhan_server.streams import Stream


class DeviceChanges:
    """Appends to the record of changes; each job's changes share one stream position."""

    def __init__(self, db: Database, stream: Stream, background: Background) -> None:
        self._db = db
        self._stream = stream
        self._background = background

    def record(
        self, tx: Transaction, user_id: UserID, device_ids: Iterable[str], kind: ChangeKind
    ) -> Pos:
        """Record that these devices changed (NO_DEVICE: the cross-signing keys)."""
        pos = self.position(tx, user_id, for_others=kind is not ChangeKind.OWN)
        for device_id in device_ids:
            storage.append_device_change(tx, user_id, device_id, kind, pos)
        return pos

    def record_new(self, tx: Transaction, user_id: UserID, device_id: DeviceID) -> None:
        """Record that a device begins; one that is there already is no news.

        It has no keys yet. Its owner's other devices list it all the same, and other servers
        are told of it.
        """
        pos = self.position(tx, user_id, for_others=True)
        storage.append_new_device(tx, user_id, device_id, pos)

    def position(self, tx: Transaction, user_id: UserID, *, for_others: bool) -> Pos:
        """Return the position for a change of the user; its commit shows it and wakes."""
        pos = tx.position()

        def show(commit: Commit) -> None:
            self._stream.publish(commit[pos])
            self._stream.wake([user_id])
            # Who shares a room is read only now: whoever begins to wait from here on sees the
            # change without being woken.
            if for_others and not self._stream.closing:
                self._background.spawn("device list wake-up", self._wake_sharing(user_id))

        tx.after_commit(show)
        return pos

    async def _wake_sharing(self, user_id: UserID) -> None:
        if self._stream.waiting():
            sharing = await users_sharing_rooms(self._db, user_id)
            self._stream.wake(self._stream.waiting() & set(sharing))
