"""The extensions: to-device messages, encryption keys, account data, receipts, typing.

Spec: MSC3885 (to_device), MSC3884 (e2ee), MSC3959 (account_data), MSC3960 (receipts), MSC3961
(typing).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from yizhan_server.e2ee.device_lists import DeviceLists
from yizhan_server.e2ee.keys import Keys
from yizhan_server.e2ee.to_device import ToDevice
from yizhan_server.ephemeral.receipts import Receipts
from yizhan_server.ephemeral.typing import Typing
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.rooms.registry import Rooms
from yizhan_server.streams import Stream
from yizhan_server.sync.account_data import AccountDataChanges
from yizhan_server.sync.changes import UserChanges, Window
from yizhan_server.sync.sliding.connection import ACCOUNT_DATA, RECEIPTS, ConnectionState
from yizhan_server.sync.sliding.lists import Coverage, CoveredRoom
from yizhan_server.sync.sliding.request import (
    MAX_TO_DEVICE,
    ExtensionBody,
    RoomExtensionBody,
    SlidingRequest,
)
from yizhan_server.sync.sliding.rooms import RoomAnswer

JsonObject = dict[str, Any]

ALL = "*"

_TO_DEVICE_TOKEN = re.compile(r"d([A-Za-z0-9_-]{1,64})\.([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one answer is about so far."""

    request: SlidingRequest
    window: Window
    heard: int
    """The counter of typing that the client knows."""
    sent: ConnectionState
    """What the connection had before the answer."""
    coverage: Coverage
    answers: Mapping[int, RoomAnswer]

    def begins(self, covered: CoveredRoom, flag: int) -> bool:
        """Whether what the flag stands for is told for the whole room, not since something."""
        before, answer = self.sent.get(covered.room.nid), self.answers.get(covered.room.nid)
        return before is None or not before.flags & flag or (answer is not None and answer.afresh)

    def since(self, covered: CoveredRoom) -> int:
        """Return up to where the connection has a room that it had before."""
        return self.sent[covered.room.nid].upto or self.window.after or 0


@dataclass(slots=True)
class ExtensionAnswers:
    """The extensions' part of an answer."""

    body: JsonObject = field(default_factory=dict)
    news: bool = False
    flags: dict[int, int] = field(default_factory=dict)
    """By room: what the connection is up to date with after the answer, see `connection`."""

    def note(self, room: int, flag: int) -> None:
        """The connection is up to date with what the flag stands for."""
        self.flags[room] = self.flags.get(room, 0) | flag


class Extensions:
    """Answers the extensions."""

    def __init__(
        self,
        stream: Stream,
        rooms: Rooms,
        changes: UserChanges,
        account_data: AccountDataChanges,
        receipts: Receipts,
        typing: Typing,
        to_device: ToDevice,
        device_lists: DeviceLists,
        e2ee_keys: Keys,
    ) -> None:
        self._stream = stream
        self._rooms = rooms
        self._changes = changes
        self._account_data = account_data
        self._receipts = receipts
        self._typing = typing
        self._to_device = to_device
        self._device_lists = device_lists
        self._e2ee_keys = e2ee_keys

    async def acknowledge(self, request: SlidingRequest) -> None:
        """Delete the to-device messages that the client says it has. Raises InvalidParam."""
        wanted = request.extensions.to_device
        if not _is_on(wanted) or wanted is None or not wanted.since:
            return
        match = _TO_DEVICE_TOKEN.fullmatch(wanted.since)
        if match is None:
            raise InvalidParam("'extensions.to_device.since' is no token of this server")
        epoch, position = match[1], int(match[2])
        # A token from before a restore of the database proves nothing about today's messages.
        if epoch == self._stream.epoch and position <= self._stream.position:
            requester = request.requester
            await self._to_device.acknowledge(requester.user_id, requester.device_id, position)

    async def build(self, progress: Progress) -> ExtensionAnswers:
        """Return the extensions' part."""
        answers = ExtensionAnswers()
        found = [
            await self._add_to_device(answers, progress),
            await self._add_e2ee(answers, progress),
            await self._add_account_data(answers, progress),
            await self._add_receipts(answers, progress),
            self._add_typing(answers, progress),
        ]
        answers.news = any(found)
        return answers

    async def _add_to_device(self, answers: ExtensionAnswers, progress: Progress) -> bool:
        wanted = progress.request.extensions.to_device
        if not _is_on(wanted) or wanted is None:
            return False
        requester, upto = progress.request.requester, progress.window.upto
        limit = MAX_TO_DEVICE if wanted.limit is None else min(wanted.limit, MAX_TO_DEVICE)
        events, more = await self._to_device.pending(
            requester.user_id, requester.device_id, upto, max(1, limit)
        )
        answers.body["to_device"] = {
            "next_batch": f"d{self._stream.epoch}.{upto if more is None else more}",
            "events": [orjson.Fragment(each) for each in events],
        }
        return bool(events)

    async def _add_e2ee(self, answers: ExtensionAnswers, progress: Progress) -> bool:
        if not _is_on(progress.request.extensions.e2ee):
            return False
        requester, window = progress.request.requester, progress.window
        counts, fallback = await self._e2ee_keys.counts(requester.user_id, requester.device_id)
        answers.body["e2ee"] = {
            "device_one_time_keys_count": counts,
            "device_unused_fallback_key_types": fallback,
        }
        if window.after is None:
            return False
        changed, left = await self._device_lists.changed(
            requester.user_id, window.after, window.upto
        )
        answers.body["e2ee"]["device_lists"] = {"changed": changed, "left": left}
        return bool(changed or left)

    async def _add_account_data(self, answers: ExtensionAnswers, progress: Progress) -> bool:
        wanted = progress.request.extensions.account_data
        if not _is_on(wanted) or wanted is None:
            return False
        user_id, window = progress.request.user_id, progress.window
        changes = await self._account_data.changed(user_id, window.after, window.upto)
        rooms: dict[str, list[JsonObject]] = {}
        for covered in _wanted_rooms(wanted, progress):
            nid, room_id = covered.room.nid, covered.room.room_id
            if progress.begins(covered, ACCOUNT_DATA):
                events = await self._account_data.of_room(user_id, room_id, 0, window.upto)
            elif progress.sent[nid].upto:
                since = progress.sent[nid].upto
                events = await self._account_data.of_room(user_id, room_id, since, window.upto)
            else:
                events = changes.by_room.get(room_id, [])
            if events:
                rooms[room_id] = events
            answers.note(nid, ACCOUNT_DATA)
        answers.body["account_data"] = {"global": changes.everywhere, "rooms": rooms}
        return bool(changes.everywhere or rooms)

    async def _add_receipts(self, answers: ExtensionAnswers, progress: Progress) -> bool:
        wanted = progress.request.extensions.receipts
        if not _is_on(wanted) or wanted is None:
            return False
        user_id, upto = progress.request.user_id, progress.window.upto
        joined = [c for c in _wanted_rooms(wanted, progress) if c.room.membership == "join"]
        moved = await self._changes.rooms_with_receipts(
            user_id, [covered.room.nid for covered in joined], progress.window
        )
        rooms: dict[str, JsonObject] = {}
        for covered in joined:
            nid, room_id = covered.room.nid, covered.room.room_id
            begins = progress.begins(covered, RECEIPTS)
            answers.note(nid, RECEIPTS)
            if not (begins or nid in moved or progress.sent[nid].upto):
                continue
            room = await self._rooms.get(room_id)
            if begins:
                answer = progress.answers.get(nid)
                first_pos = None if answer is None else answer.first_pos
                content = await self._receipts.beside(
                    room, user_id, upto + 1 if first_pos is None else first_pos, upto
                )
            else:
                since = progress.since(covered)
                content = await self._receipts.changed(room, user_id, since, upto)
            if content:
                rooms[room_id] = {"type": "m.receipt", "content": content}
        answers.body["receipts"] = {"rooms": rooms}
        return bool(rooms)

    def _add_typing(self, answers: ExtensionAnswers, progress: Progress) -> bool:
        wanted = progress.request.extensions.typing
        if not _is_on(wanted) or wanted is None:
            return False
        changed = self._typing.changed_after(progress.heard)
        now = self._typing.changed_after(0)
        rooms: dict[str, JsonObject] = {}
        for covered in _wanted_rooms(wanted, progress):
            if covered.room.membership != "join":
                continue
            before = progress.sent.get(covered.room.nid)
            # Of a room that was out of sight, who types at this moment is all that matters.
            source = changed if before is not None and not before.upto else now
            users = source.get(covered.room.room_id)
            if users is not None:
                rooms[covered.room.room_id] = {"type": "m.typing", "content": {"user_ids": users}}
        answers.body["typing"] = {"rooms": rooms}
        return bool(rooms)


def _is_on(wanted: ExtensionBody | None) -> bool:
    return wanted is not None and wanted.enabled is True


def _wanted_rooms(wanted: RoomExtensionBody, progress: Progress) -> Iterator[CoveredRoom]:
    """Yield the covered rooms that an extension is wanted for."""
    lists = [ALL] if wanted.lists is None else wanted.lists
    rooms = [ALL] if wanted.rooms is None else wanted.rooms
    for covered in progress.coverage.rooms.values():
        if (
            ALL in rooms
            or covered.room.room_id in rooms
            or (ALL in lists and covered.lists)
            or any(name in lists for name in covered.lists)
        ):
            yield covered
