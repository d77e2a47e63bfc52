"""Classic /sync: one answer about everything that changed for a user, and the long poll for it.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.accounts.requester import Requester
from yizhan_server.e2ee.device_lists import DeviceLists
from yizhan_server.e2ee.keys import Keys
from yizhan_server.e2ee.to_device import ToDevice
from yizhan_server.ephemeral.counter import EphemeralCounter
from yizhan_server.ephemeral.presence import Presence
from yizhan_server.ephemeral.typing import Typing
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.stream_token import SyncToken
from yizhan_server.rooms.access import ReadableRoom, RoomAccess
from yizhan_server.rooms.departures import Departures
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.newcomers import users_with_member_events
from yizhan_server.storage.rooms import UserRoom
from yizhan_server.streams import Stream
from yizhan_server.sync.account_data import AccountDataChanges
from yizhan_server.sync.changes import UserChanges, Window
from yizhan_server.sync.filters import SyncFilter
from yizhan_server.sync.initial import InitialSyncs
from yizhan_server.sync.long_poll import wait_for_answer
from yizhan_server.sync.rooms import RoomSections, StateSection, SyncDevice
from yizhan_server.sync.summaries import stripped_state

JsonObject = dict[str, Any]

YIELD_EVERY = 20
"""Rooms of an initial sync that are built before other requests get their turn."""


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What a client asked for."""

    requester: Requester
    since: SyncToken | None
    wanted: SyncFilter
    timeout_ms: int
    full_state: bool
    state_section: StateSection
    set_presence: str


class Sync:
    """Answers /sync."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        rooms: Rooms,
        access: RoomAccess,
        changes: UserChanges,
        sections: RoomSections,
        account_data: AccountDataChanges,
        counter: EphemeralCounter,
        typing: Typing,
        presence: Presence,
        to_device: ToDevice,
        device_lists: DeviceLists,
        e2ee_keys: Keys,
        departures: Departures,
    ) -> None:
        self._db = db
        self._stream = stream
        self._rooms = rooms
        self._access = access
        self._changes = changes
        self._sections = sections
        self._account_data = account_data
        self._counter = counter
        self._typing = typing
        self._presence = presence
        self._to_device = to_device
        self._device_lists = device_lists
        self._e2ee_keys = e2ee_keys
        self._initial = InitialSyncs()
        self._departures = departures

    async def answer(self, request: SyncRequest) -> bytes:
        """Return the answer's JSON, as soon as there is something, at the latest at time-out."""
        requester = request.requester
        since = request.since
        if since is not None and (
            since.epoch != self._stream.epoch or since.position > self._stream.position
        ):
            # From before a restore of the database: it proves nothing, and begins anew.
            since = None
        if since is not None:
            self._initial.received(requester.user_id, requester.device_id)
            await self._to_device.acknowledge(
                requester.user_id, requester.device_id, since.position
            )
        self._presence.seen(requester.user_id, request.set_presence)
        ignored = await self._account_data.ignored_users(requester.user_id)
        device = SyncDevice(
            requester.user_id, requester.device_id, request.wanted,
            request.full_state, request.state_section, ignored,
            await self._account_data.blocks_invites(requester.user_id),
        )  # fmt: skip

        async def build() -> tuple[JsonObject, bool]:
            answer, changed = await self._build(device, since)
            return answer, changed or since is None or request.full_state

        async def answer() -> bytes:
            return orjson.dumps(
                await wait_for_answer(self._stream, requester, None, request.timeout_ms, build)
            )

        if since is None:
            return await self._initial.answer(device, requester.token_nid, answer)
        return await answer()

    async def _build(self, device: SyncDevice, since: SyncToken | None) -> tuple[JsonObject, bool]:
        """Return the answer about (since, now], and whether there is anything in it."""
        user_id, upto = device.user_id, self._stream.position
        after = None if since is None else since.position
        ephemeral = self._counter.value
        heard = 0
        if since is not None and since.boot == self._counter.boot:
            heard = since.ephemeral
        to_device, more = await self._to_device.pending(user_id, device.device_id, upto)
        if more is not None:
            # The rest of the messages comes with the next answer, and so must all else that
            # is newer than them: the token is one number.
            upto = more
        window = Window(after, upto)
        if after is None:
            self._sections.begin(device)
        changes = await self._account_data.changed(user_id, after, upto)
        rooms = await self._rooms_section(device, window, changes.by_room, heard)
        newcomers = await self._newcomers(window, rooms.get("join", {}))
        account_data = [
            each for each in changes.everywhere if device.wanted.account_data.passes_object(each)
        ]
        presence = await self._presence_events(device, heard, newcomers)
        lists: JsonObject = {}
        if after is not None:
            changed, left = await self._device_lists.changed(user_id, after, upto)
            lists = {"changed": changed, "left": left}
        counts, fallback = await self._e2ee_keys.counts(user_id, device.device_id)
        token = SyncToken(self._stream.epoch, upto, self._counter.boot, ephemeral)
        answer: JsonObject = {
            "next_batch": token.serialize(),
            "device_one_time_keys_count": counts,
            "device_unused_fallback_key_types": fallback,
            "org.matrix.msc2732.device_unused_fallback_key_types": fallback,
        }
        parts = {
            "rooms": rooms,
            "account_data": {"events": account_data} if account_data else {},
            "presence": {"events": presence} if presence else {},
            "to_device": (
                {"events": [orjson.Fragment(each) for each in to_device]} if to_device else {}
            ),
            "device_lists": {key: users for key, users in lists.items() if users},
        }
        answer.update((key, part) for key, part in parts.items() if part)
        return answer, any(parts.values())

    async def _rooms_section(
        self,
        device: SyncDevice,
        window: Window,
        account_data: Mapping[str, list[JsonObject]],
        heard: int,
    ) -> dict[str, dict[str, Any]]:
        user_id = device.user_id
        rooms = [
            room
            for room in await self._changes.rooms(user_id, window)
            if device.wanted.passes_room(room.room_id)
        ]
        is_initial = window.after is None
        typing = self._typing.of_every_room() if is_initial else self._typing.changed_after(heard)
        joined = [room.nid for room in rooms if room.membership == "join"]
        receipts = await self._changes.rooms_with_receipts(user_id, joined, window)
        everything = is_initial or device.full_state
        eventful: Collection[int] = joined
        if not everything:
            eventful = await self._changes.rooms_with_events(user_id, window)
        sections: dict[str, dict[str, Any]] = {}
        for index, member in enumerate(rooms):
            if not (
                everything
                or member.pos in window
                or member.nid in receipts
                or member.nid in eventful
                or member.room_id in account_data
                or member.room_id in typing
            ):
                continue
            if everything and index % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            kind, section = await self._room_section(
                device, window, member, account_data.get(member.room_id, []), typing,
                receipts_changed=member.nid in receipts,
            )  # fmt: skip
            if section is not None:
                sections.setdefault(kind, {})[member.room_id] = section
        if window.after is not None:
            for room_id in self._departures.find(user_id, window.after, window.upto):
                if device.wanted.passes_room(room_id):
                    sections.setdefault("leave", {})[room_id] = _removed()
        return sections

    async def _room_section(
        self,
        device: SyncDevice,
        window: Window,
        member: UserRoom,
        account_data: list[JsonObject],
        typing: Mapping[str, list[UserID]],
        *,
        receipts_changed: bool,
    ) -> tuple[str, JsonObject | None]:
        """Return under which kind a room goes, and its section."""
        room = await self._rooms.get(member.room_id)
        now = member.membership
        changed = member.pos in window
        before = None
        if window.after is not None and changed:
            before = await self._changes.membership_at(room.nid, device.user_id, window.after)
        if now == "join":
            newly = changed and before != "join"
            if newly and window.after is not None:
                self._sections.begin_room(device, room)
                everything = await self._account_data.changed(device.user_id, None, window.upto)
                account_data = everything.by_room.get(room.room_id, [])
            users = typing.get(room.room_id)
            if newly and users is None:
                users = self._typing.changed_after(0).get(room.room_id)
            readable = ReadableRoom(room, device.user_id, "join", LATEST)
            section = await self._sections.joined(
                device, readable, Window(None, window.upto) if newly else window,
                account_data=account_data, typing=users, receipts_changed=receipts_changed,
            )  # fmt: skip
            if newly and section is not None and window.after is not None:
                # What the client has of an earlier stay does not connect to this.
                section["timeline"]["limited"] = True
            return "join", section
        if not changed:
            return "none", None
        if now in ("invite", "knock"):
            if now == "invite" and (device.blocks_invites or member.sender in device.ignored):
                return "none", None
            events = await stripped_state(self._db, room, device.user_id)
            return now, {f"{now}_state": {"events": events}}
        return "leave", await self._left(device, window, room, member, before, account_data)

    async def _left(
        self,
        device: SyncDevice,
        window: Window,
        room: Room,
        member: UserRoom,
        before: str | None,
        account_data: list[JsonObject],
    ) -> JsonObject | None:
        if window.after is None and not device.wanted.include_leave:
            return None
        if window.after is not None and before == member.membership:
            return None
        ended = await self._access.end_of_stay(room, device.user_id, window.upto)
        if ended is None or ended <= (window.after or 0):
            # An invitation or a knock that came to nothing, or a ban from outside.
            if window.after is None:
                return None
            return await self._sections.departure(device, room, member.event)
        readable = ReadableRoom(room, device.user_id, member.membership, ended)
        if before != "join":
            # Joined and left since the last answer: the client knows nothing of the room.
            window = Window(None, window.upto)
        return await self._sections.left(device, readable, window, account_data)

    async def _newcomers(self, window: Window, joined: Mapping[str, JsonObject]) -> set[str]:
        """Return whom the user shares a room with only since this window."""
        newcomers: set[str] = set()
        if window.after is None:
            return newcomers
        for room_id in joined:
            room = await self._rooms.get(room_id)
            users = await users_with_member_events(self._db, room.nid, window.after, window.upto)
            newcomers |= users
        return newcomers

    async def _presence_events(
        self, device: SyncDevice, heard: int, newcomers: AbstractSet[str]
    ) -> list[JsonObject]:
        """Return changed presence of those who share a room with the user, and their own.

        Of `newcomers` also what has not changed.
        """
        changed = self._presence.changed_after(heard)
        if device.user_id in newcomers:
            # Whoever was there before is new, too; in which room does not matter.
            newcomers = {*await stored_rooms.users_sharing_rooms(self._db, device.user_id)}
        changed |= self._presence.of(newcomers - {device.user_id})
        if not changed:
            return []
        shared = {*await stored_rooms.users_sharing_rooms(self._db, device.user_id)}
        shared.add(device.user_id)
        events = [
            {"type": "m.presence", "sender": user, "content": content}
            for user, content in changed.items()
            if user in shared
        ]
        return [event for event in events if device.wanted.presence.passes_object(event)]


def _removed() -> JsonObject:
    """Return the section of a room of which nothing is left."""
    return {
        "timeline": {"events": [], "limited": False},
        "state": {"events": []},
        "account_data": {"events": []},
    }
