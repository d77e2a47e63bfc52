"""Typing, receipts and presence between servers: EDUs that need not arrive.

A server says such things of its own users only, of rooms that it is in, and that it is not shut
out of. What it says is about how things are now, so a later EDU takes the place of an earlier one.

Spec: server-server API, "Typing Notifications", "Receipts", "Presence".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec

from yizhan_config.tasks import Background
from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.e2ee.input import is_name
from yizhan_server.ephemeral.presence import MAX_STATUS, STATES, Presence
from yizhan_server.ephemeral.receipts import READ
from yizhan_server.ephemeral.typing import Typing
from yizhan_server.federation.early_receipts import EarlyReceipts
from yizhan_server.federation.newly_shared import EarlyPresence
from yizhan_server.federation.outbox import Outbox
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import BadJson, Forbidden, MatrixError
from yizhan_server.protocol.identifiers import ServerName, UserID, is_user_id, server_name_of
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import ServerAccess
from yizhan_server.storage import room_servers as stored_servers
from yizhan_server.storage.receipts import UNTHREADED, StoredReceipt
from yizhan_server.streams import Stream

T = TypeVar("T")

TYPING_MS = 60_000
"""Somebody of whom nothing more is heard has stopped by then; clients repeat every half minute."""
MAX_ENTRIES = 1000
"""Rooms, receipts or people in one EDU that are looked at."""


class EphemeralTelling:
    """Tells the servers of a room what this server's users do there."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        outbox: Outbox,
        background: Background,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._stream = stream
        self._outbox = outbox
        self._background = background
        self._server_name = server_name
        self._latest: dict[tuple[str, ...], JsonObject] = {}

    def typing(self, room: Room, user_id: UserID, is_typing: bool) -> None:  # noqa: FBT001
        """Somebody types, or no longer does."""
        content = {"room_id": room.room_id, "user_id": user_id, "typing": is_typing}
        self._tell(
            user_id, ("m.typing", room.room_id, user_id), content,
            lambda: stored_servers.servers_now(self._db, room.nid),
        )  # fmt: skip

    def receipt(self, room: Room, receipt: StoredReceipt) -> None:
        """Somebody has read on, and does not hide it."""
        data: JsonObject = {"ts": receipt.ts_ms}
        if receipt.thread != UNTHREADED:
            data["thread_id"] = receipt.thread
        of_user = {"event_ids": [receipt.event_id], "data": data}
        user_id = UserID(receipt.user_id)
        self._tell(
            user_id, ("m.receipt", room.room_id, user_id, receipt.thread),
            {room.room_id: {READ: {user_id: of_user}}},
            lambda: stored_servers.servers_now(self._db, room.nid),
        )  # fmt: skip

    def presence(self, user_id: UserID, content: JsonObject) -> None:
        """Somebody comes or goes."""
        self._tell(
            user_id, ("m.presence", user_id), _presence_content(user_id, content),
            lambda: stored_servers.servers_of_user(self._db, user_id),
        )  # fmt: skip

    def presence_to(
        self, servers: Sequence[ServerName], user_id: UserID, content: JsonObject
    ) -> None:
        """Tell servers that have not been told how somebody's presence is."""
        edu = {"edu_type": "m.presence", "content": _presence_content(user_id, content)}
        self._outbox.tell(servers, ("m.presence", user_id), edu)

    def _tell(
        self,
        user_id: UserID,
        subject: tuple[str, ...],
        content: JsonObject,
        find_servers: Callable[[], Awaitable[list[str]]],
    ) -> None:
        if server_name_of(user_id) != self._server_name or self._stream.closing:
            return
        # Of two tasks for one subject, whichever is first tells the latest.
        is_told_anyhow = subject in self._latest
        self._latest[subject] = {"edu_type": subject[0], "content": content}
        if not is_told_anyhow:
            self._background.spawn("telling servers", self._find_and_tell(subject, find_servers))

    async def _find_and_tell(
        self, subject: tuple[str, ...], find_servers: Callable[[], Awaitable[list[str]]]
    ) -> None:
        try:
            servers = await find_servers()
        finally:
            edu = self._latest.pop(subject)
        self._outbox.tell([ServerName(server) for server in servers], subject, edu)


def _presence_content(user_id: UserID, content: JsonObject) -> JsonObject:
    return {"push": [{"last_active_ago": 0, **content, "user_id": user_id}]}


class _TypingContent(msgspec.Struct):
    room_id: str
    user_id: str
    typing: bool


class _ReceiptData(msgspec.Struct):
    ts: int | None = None
    thread_id: str | None = None


class _Receipt(msgspec.Struct):
    event_ids: list[str]
    data: _ReceiptData


class _PresenceOf(msgspec.Struct):
    user_id: str
    presence: str
    last_active_ago: int = 0
    status_msg: str | None = None


class _PresenceContent(msgspec.Struct):
    push: list[Any]


class EphemeralReceiving:
    """Takes what other servers tell."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        access: ServerAccess,
        typing: Typing,
        receipts: EarlyReceipts,
        presence: Presence | None,
        early: EarlyPresence,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._clock = clock
        self._access = access
        self._typing = typing
        self._receipts = receipts
        self._presence = presence
        self._early = early
        self._server_name = server_name

    async def typing(self, origin: ServerName, content: JsonObject) -> None:
        """Take m.typing."""
        said = parse_edu(content, _TypingContent)
        room = await self._access_room(origin, said.room_id)
        user_id = await _check_member(room, origin, said.user_id)
        self._typing.set(room, user_id, TYPING_MS if said.typing else None)

    async def receipts(self, origin: ServerName, content: JsonObject) -> None:
        """Take m.receipt; receipts that are not in order do not hinder the others."""
        left = MAX_ENTRIES
        for room_id, kinds in islice(content.items(), MAX_ENTRIES):
            by_user = kinds.get(READ) if isinstance(kinds, dict) else None
            if not isinstance(by_user, dict):
                continue
            try:
                room = await self._access_room(origin, room_id)
            except Forbidden:
                continue
            for user_id, raw in list(by_user.items())[:left]:
                left -= 1
                await self._receive_receipt(origin, room, user_id, raw)

    async def _receive_receipt(
        self, origin: ServerName, room: Room, user_id: str, raw: object
    ) -> None:
        try:
            receipt = parse_edu(raw, _Receipt)
            reader = await _check_member(room, origin, user_id)
            now_ms = self._clock.now_ms()
            ts_ms = receipt.data.ts
            if ts_ms is None or not 0 <= ts_ms <= now_ms:
                ts_ms = now_ms
            thread = receipt.data.thread_id
            if thread is not None and not is_name(thread):
                return
            for event_id in filter(is_name, receipt.event_ids[:1]):
                await self._receipts.receive(origin, room, reader, event_id, thread, ts_ms)
        except MatrixError:
            return

    async def presence(self, origin: ServerName, content: JsonObject) -> None:
        """Take m.presence of those who share a room with somebody here."""
        if self._presence is None:
            return
        for raw in parse_edu(content, _PresenceContent).push[:MAX_ENTRIES]:
            said = parse_edu(raw, _PresenceOf)
            check_user(origin, said.user_id)
            if said.presence not in STATES or len(said.status_msg or "") > MAX_STATUS:
                raise BadJson("No such presence")
            user_id = UserID(said.user_id)
            self._early.keep(user_id, said.presence, said.status_msg, said.last_active_ago)
            if await stored_servers.is_in_room_with(self._db, self._server_name, user_id):
                self._early.take(user_id, self._presence)

    async def _access_room(self, origin: ServerName, room_id: str) -> Room:
        """Return a room that both servers are in, or answer M_FORBIDDEN."""
        if not is_name(room_id):
            raise Forbidden("There is no such room")
        shared = await self._access.access_shared_room(origin, room_id)
        if not await self._access.is_here(shared.room):
            raise Forbidden("This server is not in the room")
        return shared.room


def parse_edu(content: object, kind: type[T]) -> T:
    """Return content as `kind`, or answer M_BAD_JSON."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise BadJson(str(error)) from None


def check_user(origin: ServerName, user_id: str) -> UserID:
    """Return a user of the server that speaks, or answer M_FORBIDDEN."""
    if not is_name(user_id) or not is_user_id(user_id) or server_name_of(user_id) != origin:
        raise Forbidden("A server speaks of its own users only")
    return UserID(user_id)


async def _check_member(room: Room, origin: ServerName, user_id: str) -> UserID:
    user = check_user(origin, user_id)
    if await room.membership(user) != "join":
        raise Forbidden("The user is not in the room")
    return user
