"""Recording that a user's devices or cross-signing keys changed, and waking whom it concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.storage import device_changes as storage
from yizhan_server.storage.device_changes import NO_DEVICE, ChangeKind
from yizhan_server.storage.rooms import users_sharing_rooms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yizhan_config.tasks import Background
    from yizhan_database import Commit, Database, Pos, Transaction
    from yizhan_server.protocol.identifiers import DeviceID, UserID
    from yizhan_server.streams import Stream


class DeviceChanges:
    """Appends to the record of changes; each change has a stream position of its own.

    Other servers know the changes of a user by their numbers.
    """

    def __init__(self, db: Database, stream: Stream, background: Background) -> None:
        self._db = db
        self._stream = stream
        self._background = background

    def record(
        self, tx: Transaction, user_id: UserID, device_ids: Iterable[str], kind: ChangeKind
    ) -> None:
        """Record that these devices changed (NO_DEVICE: the cross-signing keys)."""
        positions = []
        for device_id in device_ids:
            pos = tx.position()
            storage.append_device_change(tx, user_id, device_id, kind, pos)
            positions.append(pos)
        if positions:
            self._show(tx, user_id, positions[-1], for_others=kind is not ChangeKind.OWN)

    def record_remote(self, tx: Transaction, user_id: UserID) -> None:
        """Record that something about a user of another server changed; only the latest counts."""
        storage.delete_remote_changes(tx, user_id)
        self.record(tx, user_id, [NO_DEVICE], ChangeKind.REMOTE)

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
        self._show(tx, user_id, pos, for_others=for_others)
        return pos

    def _show(self, tx: Transaction, user_id: UserID, pos: Pos, *, for_others: bool) -> None:
        def show(commit: Commit) -> None:
            self._stream.publish(commit[pos])
            self._stream.wake([user_id])
            # Who shares a room is read only now: whoever begins to wait from here on sees the
            # change without being woken.
            if for_others and not self._stream.closing:
                self._background.spawn("device list wake-up", self._wake_sharing(user_id))

        tx.after_commit(show)

    async def _wake_sharing(self, user_id: UserID) -> None:
        if self._stream.waiting():
            sharing = await users_sharing_rooms(self._db, user_id)
            self._stream.wake(self._stream.waiting() & set(sharing))
