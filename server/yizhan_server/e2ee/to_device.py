"""To-device messages: queued for each device, kept until a later /sync proves them received.

Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_database import GuardFailed, Transaction
from yizhan_server.e2ee.input import check_name, is_name
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import BadJson, TooLarge
from yizhan_server.protocol.identifiers import ServerName, parse_user_id, server_name_of
from yizhan_server.storage import to_device as storage
from yizhan_server.storage.events import append_transaction

if TYPE_CHECKING:
    from yizhan_database import Commit, Database
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import DeviceID, UserID
    from yizhan_server.streams import Stream

ALL_DEVICES = "*"
MAX_MESSAGE_BYTES = 65_536
"""As for events in rooms."""


class ToDevice:
    """Sends, and hands out what waits."""

    def __init__(
        self, db: Database, stream: Stream, clock: Clock, *, server_name: ServerName
    ) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._server_name = server_name

    async def send(
        self,
        sender: UserID,
        device_id: DeviceID,
        kind: str,
        txn_id: str,
        messages: dict[str, Any],
    ) -> None:
        """Queue user -> device (or `*`) -> content, once per transaction id of the sender's device.

        Devices that do not exist, and users of other servers, are passed over. Answers
        M_BAD_JSON, M_INVALID_PARAM or M_TOO_LARGE, and then has queued nothing.
        """
        check_name(kind, "The event type")
        check_name(txn_id, "The transaction id")
        named: list[tuple[str, str, bytes]] = []
        for_all: list[tuple[str, bytes]] = []
        for user_id, contents in messages.items():
            if not isinstance(contents, dict):
                raise BadJson("'messages' maps users to maps of devices")
            is_local = server_name_of(parse_user_id(user_id)) == self._server_name
            for recipient, content in contents.items():
                event = _event(sender, kind, content)
                if not is_local or not is_name(recipient):
                    continue
                if recipient == ALL_DEVICES:
                    for_all.append((user_id, event))
                else:
                    named.append((user_id, recipient, event))
        tx = Transaction()
        append_transaction(
            tx,
            user_id=sender,
            device_id=device_id,
            scope=f"sendToDevice/{kind}",
            txn_id=txn_id,
            event_id="",
            now_ms=self._clock.now_ms(),
        )
        if named or for_all:
            pos = tx.position()

            def show(commit: Commit) -> None:
                self._stream.publish(commit[pos])
                self._stream.wake(user_id for user_id, _ in for_all)
                for user_id, recipient, _ in named:
                    self._stream.wake_device(user_id, recipient)

            tx.after_commit(show)
            # In this order: one message to a device, and the one that names it counts.
            storage.append_messages(tx, named, pos)
            storage.append_messages_to_all(tx, for_all, pos)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            return  # sent before, under this transaction id

    async def pending(
        self, user_id: UserID, device_id: str, upto: int, limit: int = 100
    ) -> tuple[list[bytes], int | None]:
        """Return the first `limit` messages (JSON events, in order) at positions up to `upto`.

        The second value is the position of the last of them when there are more.
        """
        found = await storage.find_messages(self._db, user_id, device_id, upto, limit + 1)
        events = [event for _, event in found[:limit]]
        return events, found[limit - 1][0] if len(found) > limit else None

    async def acknowledge(self, user_id: UserID, device_id: str, upto: int) -> None:
        """Delete the messages at positions up to `upto`: the device has received them."""
        # Nearly every sync acknowledges nothing, and must not cost a commit.
        if await storage.has_messages(self._db, user_id, device_id, upto):
            tx = Transaction()
            storage.delete_messages(tx, user_id, device_id, upto)
            await self._db.commit(tx)


def _event(sender: UserID, kind: str, content: object) -> bytes:
    if not isinstance(content, dict):
        raise BadJson("A message's content is an object")
    event = encode_canonical({"type": kind, "sender": sender, "content": content})
    if len(event) > MAX_MESSAGE_BYTES:
        raise TooLarge(f"A to-device message is longer than {MAX_MESSAGE_BYTES} bytes")
    return event
