"""To-device messages: queued for each device, kept until a later /sync proves them received.

Those for users of other servers are queued for their servers, in the same commit.

Spec: client-server API, "Send-to-Device messaging"; server-server API, "Send-to-device messaging".
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from yizhan_database import GuardFailed, Transaction
from yizhan_server.e2ee.input import check_name, is_name
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import BadJson, Forbidden, TooLarge
from yizhan_server.protocol.identifiers import (
    InvalidIdentifier,
    ServerName,
    parse_user_id,
    server_name_of,
)
from yizhan_server.storage import destinations as stored_destinations
from yizhan_server.storage import to_device as storage
from yizhan_server.storage.events import append_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from yizhan_database import Commit, Database, Pos
    from yizhan_server.clock import Clock
    from yizhan_server.federation_client.peers import Peers
    from yizhan_server.protocol.identifiers import DeviceID, UserID
    from yizhan_server.streams import Stream

ALL_DEVICES = "*"
MAX_MESSAGE_BYTES = 65_536
"""As for events in rooms."""
MAX_ADDRESSED = 10_000
"""Devices in one call or EDU. Each is a row of one commit, for which all other writers wait; a body
has room for a million."""
EDU_BYTES = 65_536
"""An EDU is ended when it has become longer than this."""
FOLLOWER = "federation"
"""Who notes what the stream owes to other servers."""


@dataclass(slots=True)
class _Addressed:
    """Messages of one call by where they go."""

    named: list[tuple[str, str, bytes]] = field(default_factory=list)
    """(user, device, event) on this server."""
    for_all: list[tuple[str, bytes]] = field(default_factory=list)
    """(user, event) on this server, for each device."""
    remote: dict[ServerName, list[tuple[str, str, dict[str, Any]]]] = field(default_factory=dict)
    """(user, device or `*`, content) by server."""


class _DirectToDevice(msgspec.Struct):
    """Content of m.direct_to_device."""

    sender: str
    type: str
    message_id: str
    messages: dict[str, dict[str, Any]]


class ToDevice:
    """Sends, and hands out what waits."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        clock: Clock,
        *,
        server_name: ServerName,
        peers: Peers,
        wake_server: Callable[[ServerName], None],
    ) -> None:
        """`wake_server` is called when messages for a server have become durable."""
        self._db = db
        self._stream = stream
        self._clock = clock
        self._server_name = server_name
        self._peers = peers
        self._wake_server = wake_server

    async def send(
        self,
        sender: UserID,
        device_id: DeviceID,
        kind: str,
        txn_id: str,
        messages: dict[str, Any],
    ) -> None:
        """Queue user -> device (or `*`) -> content, once per transaction id of the sender's device.

        Devices that do not exist, and users of servers that are not spoken with, are passed over.
        Answers M_BAD_JSON, M_INVALID_PARAM or M_TOO_LARGE, and then has queued nothing.
        """
        check_name(kind, "The event type")
        check_name(txn_id, "The transaction id")
        addressed = self._address(sender, kind, messages)
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
        self._queue(tx, addressed)
        self._queue_for_servers(tx, sender, kind, addressed)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            return  # sent before, under this transaction id

    async def receive(self, origin: ServerName, content: dict[str, Any]) -> None:
        """Queue what a user of another server sends to users of this one, once per message id."""
        try:
            said = msgspec.convert(content, _DirectToDevice)
        except msgspec.ValidationError as error:
            raise BadJson(str(error)) from None
        check_name(said.type, "The event type")
        check_name(said.message_id, "The message id")
        sender = parse_sender(origin, said.sender)
        addressed = self._address(sender, said.type, said.messages)
        tx = Transaction()
        storage.append_received(tx, origin, said.message_id, self._clock.now_ms())
        self._queue(tx, addressed)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            return  # received before

    def _address(self, sender: UserID, kind: str, messages: dict[str, Any]) -> _Addressed:
        """Check messages and sort them by where they go."""
        addressed = _Addressed()
        left = MAX_ADDRESSED
        for user_id, contents in messages.items():
            if not isinstance(contents, dict):
                raise BadJson("'messages' maps users to maps of devices")
            left -= len(contents)
            if left < 0:
                raise TooLarge(f"At most {MAX_ADDRESSED} devices are sent messages at once")
            server = server_name_of(parse_user_id(user_id))
            for recipient, content in contents.items():
                event = _event(sender, kind, content)
                if server is None or not is_name(recipient):
                    continue
                if server != self._server_name:
                    addressed.remote.setdefault(server, []).append((user_id, recipient, content))
                elif recipient == ALL_DEVICES:
                    addressed.for_all.append((user_id, event))
                else:
                    addressed.named.append((user_id, recipient, event))
        return addressed

    def _queue(self, tx: Transaction, addressed: _Addressed) -> None:
        """Record the messages for this server's users."""
        named, for_all = addressed.named, addressed.for_all
        if not named and not for_all:
            return
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

    def _queue_for_servers(
        self, tx: Transaction, sender: UserID, kind: str, addressed: _Addressed
    ) -> None:
        """Record the messages for users of other servers.

        Each EDU is numbered by a position, since only those are in the order of the commits: the
        server that has taken a number has taken all below it.
        """
        edus: list[tuple[str, Pos, bytes]] = []
        servers = [server for server in addressed.remote if self._peers.is_allowed(server)]
        for server in servers:
            for messages in _portions(addressed.remote[server]):
                content = {
                    "sender": sender,
                    "type": kind,
                    "message_id": secrets.token_urlsafe(18),
                    "messages": messages,
                }
                edu = encode_canonical({"edu_type": "m.direct_to_device", "content": content})
                edus.append((server, tx.position(), edu))
        if not edus:
            return

        def show(commit: Commit) -> None:
            self._stream.publish(commit.positions[-1])
            for server in servers:
                self._wake_server(server)

        tx.after_commit(show)
        stored_destinations.append_edus(tx, edus, FOLLOWER, self._clock.now_ms())

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


def _portions(
    messages: list[tuple[str, str, dict[str, Any]]],
) -> Iterator[dict[str, dict[str, dict[str, Any]]]]:
    """Yield the messages in maps of a size that fits an EDU."""
    portion: dict[str, dict[str, dict[str, Any]]] = {}
    size = 0
    for user_id, recipient, content in messages:
        portion.setdefault(user_id, {})[recipient] = content
        size += len(encode_canonical(content)) + len(user_id) + len(recipient)
        if size > EDU_BYTES:
            yield portion
            portion, size = {}, 0
    if portion:
        yield portion


def parse_sender(origin: ServerName, user_id: str) -> UserID:
    """Return a user of the server that speaks, or answer M_FORBIDDEN."""
    try:
        parsed = parse_user_id(check_name(user_id, "A user"))
    except InvalidIdentifier:
        raise BadJson("Not a user") from None
    if server_name_of(parsed) != origin:
        raise Forbidden("A server speaks of its own users only")
    return parsed
