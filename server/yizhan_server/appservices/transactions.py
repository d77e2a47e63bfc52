"""What a transaction holds: a stretch of the stream, as far as one service is interested in it.

To-device messages, device lists and key counts have no stable names in the specification; they
go under those of their proposals, which is where bridges look for them.

Spec: application service API, "Pushing events", "Pushing ephemeral data"; MSC2409, MSC3202.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.appservices.interests import Interests
from yizhan_server.appservices.registration import Appservice
from yizhan_server.e2ee.keys import Keys
from yizhan_server.ephemeral.presence import Presence
from yizhan_server.ephemeral.receipts import make_receipt_content
from yizhan_server.ephemeral.typing import Typing
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.rendering import EventRenderer
from yizhan_server.storage import appservices as storage
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import out_of_band as stored_changes
from yizhan_server.storage.events import StoredEvent

JsonObject = dict[str, Any]

PAGE = 100
"""Events, or positions with receipts or to-device messages, in one transaction."""
TO_DEVICE = "de.sorunome.msc2409.to_device"
_EPHEMERAL_BEFORE = "de.sorunome.msc2409.ephemeral"
_EXTENSIONS = "org.matrix.msc3202."


@dataclass(frozen=True, slots=True)
class Composed:
    """A transaction's body, for the positions up to `end`; None: nothing concerns the service."""

    end: int
    body: bytes | None


@dataclass(slots=True)
class _Found:
    events: list[bytes] = field(default_factory=list)
    ephemeral: list[JsonObject] = field(default_factory=list)
    to_device: list[orjson.Fragment] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    """The service's users who have to do with any of it."""

    @property
    def is_empty(self) -> bool:
        return not (self.events or self.ephemeral or self.to_device or self.changed or self.left)


class Transactions:
    """Composes transactions."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        interests: Interests,
        renderer: EventRenderer,
        typing: Typing,
        presence: Presence,
        keys: Keys,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._interests = interests
        self._renderer = renderer
        self._typing = typing
        self._presence = presence
        self._keys = keys

    async def compose(self, service: Appservice, after: int, upto: int, heard: int) -> Composed:
        """Return the next transaction from the stream's (after, upto], or from a part of it.

        `heard` is the count of passing changes (typing, presence) that was looked at last.
        """
        page = await storage.events_within(self._db, after, upto, PAGE)
        end = page[-1][1].pos if len(page) == PAGE else upto
        if service.receives_ephemeral:
            end = await storage.end_of_page(self._db, after, end, PAGE)
        outside = await stored_changes.changes_within(self._db, after, end, PAGE)
        if len(outside) == PAGE:
            end = outside[-1][0]
        found = _Found()
        await self._add_outside(found, service, outside)
        await self._add_events(found, service, [each for each in page if each[1].pos <= end])
        if service.receives_ephemeral:
            await self._add_passing(found, service, heard)
            await self._add_receipts(found, service, after, end)
            await self._add_to_device(found, service, after, end)
        if service.receives_device_changes:
            for user_id in await storage.device_changes_within(self._db, after, end):
                if await self._interests.in_user(service, user_id):
                    found.changed.add(user_id)
        if found.is_empty:
            return Composed(end, None)
        return Composed(end, orjson.dumps(await self._body(service, found)))

    async def _body(self, service: Appservice, found: _Found) -> JsonObject:
        body: JsonObject = {"events": [orjson.Fragment(each) for each in found.events]}
        if found.ephemeral:
            body["ephemeral"] = found.ephemeral
            if service.names_ephemeral_as_before:
                body[_EPHEMERAL_BEFORE] = found.ephemeral
        if found.to_device:
            body[TO_DEVICE] = found.to_device
        if service.receives_device_changes:
            body[f"{_EXTENSIONS}device_lists"] = {
                "changed": sorted(found.changed), "left": sorted(found.left - found.changed)
            }  # fmt: skip
            counts, fallback = await self._key_counts(found.touched | {service.sender})
            body[f"{_EXTENSIONS}device_one_time_keys_count"] = counts
            body[f"{_EXTENSIONS}device_unused_fallback_key_types"] = fallback
        return body

    async def _add_events(
        self, found: _Found, service: Appservice, page: list[tuple[int, StoredEvent]]
    ) -> None:
        rooms = await self._rooms.by_nid(list({nid for nid, _ in page}))
        for nid, event in page:
            if not await self._interests.in_event(service, rooms[nid], event):
                continue
            found.events += await self._renderer.render_plain(
                rooms[nid], [event], with_previous=True
            )
            found.touched |= {
                user for user in (event.sender, event.state_key or "") if service.has_user(user)
            }
            if service.receives_device_changes:
                await self._add_sharing(found, service, event)

    async def _add_outside(
        self, found: _Found, service: Appservice, outside: list[tuple[int, int, str, int]]
    ) -> None:
        """Add invitations of the service's users to rooms that this server is not in, and ends."""
        own = [(room, event) for _, room, user_id, event in outside if service.has_user(user_id)]
        if not own:
            return
        rooms = await self._rooms.by_nid(list({room for room, _ in own}))
        events = await stored_events.events_by_nid(self._db, [event for _, event in own])
        for room, nid in own:
            if nid in events:
                found.events += await self._renderer.render_plain(rooms[room], [events[nid]])
                found.touched.add(events[nid].state_key or "")

    async def _add_sharing(self, found: _Found, service: Appservice, event: StoredEvent) -> None:
        """Note whose devices the service has to look up, or may forget, because of a membership."""
        user_id = event.state_key
        if event.type != "m.room.member" or user_id is None or service.has_user(user_id):
            return
        if event.content.get("membership") == "join":
            found.changed.add(user_id)
        elif not await self._interests.in_user(service, user_id):
            found.left.add(user_id)

    async def _add_passing(self, found: _Found, service: Appservice, heard: int) -> None:
        for user_id, content in self._presence.changed_after(heard).items():
            if await self._interests.in_user(service, user_id):
                found.ephemeral.append(
                    {"type": "m.presence", "sender": user_id, "content": content}
                )
        for room_id, users in self._typing.changed_after(heard).items():
            if await self._interests.in_room(service, await self._rooms.get(room_id)):
                found.ephemeral.append(
                    {"type": "m.typing", "room_id": room_id, "content": {"user_ids": users}}
                )

    async def _add_receipts(self, found: _Found, service: Appservice, after: int, end: int) -> None:
        by_room = defaultdict(list)
        for nid, receipt in await storage.receipts_within(self._db, after, end):
            by_room[nid].append(receipt)
        rooms = await self._rooms.by_nid(list(by_room))
        for nid, receipts in by_room.items():
            if await self._interests.in_room(service, rooms[nid]):
                content = make_receipt_content(receipts, service.has_user)
                if content:
                    found.ephemeral.append(
                        {"type": "m.receipt", "room_id": rooms[nid].room_id, "content": content}
                    )

    async def _add_to_device(
        self, found: _Found, service: Appservice, after: int, end: int
    ) -> None:
        for user_id, device_id, event in await storage.to_device_within(self._db, after, end):
            if service.has_user(user_id):
                # As it is stored: a message that was nested as deeply as can be could not be
                # written a few levels deeper.
                whom = orjson.dumps({"to_user_id": user_id, "to_device_id": device_id})
                found.to_device.append(orjson.Fragment(b"%b,%b" % (event[:-1], whom[1:])))
                found.touched.add(user_id)

    async def _key_counts(self, users: Iterable[str]) -> tuple[JsonObject, JsonObject]:
        """Return counts of one-time keys and types of unused fallback keys, by user and device."""
        counts: dict[str, dict[str, Any]] = {}
        fallback: dict[str, dict[str, Any]] = {}
        for user_id, device_id in await storage.devices_with_keys(self._db, sorted(users)):
            of_device = await self._keys.counts(UserID(user_id), device_id)
            counts.setdefault(user_id, {})[device_id] = of_device[0]
            fallback.setdefault(user_id, {})[device_id] = of_device[1]
        return counts, fallback


def recipients_of(body: bytes) -> set[tuple[str, str]]:
    """Return (user, device) of the to-device messages in a transaction."""
    if TO_DEVICE.encode() not in body:
        return set()
    messages = orjson.loads(body).get(TO_DEVICE, [])
    return {(message["to_user_id"], message["to_device_id"]) for message in messages}
