"""The event stream that was before /sync: /events and both kinds of /initialSync.

Deprecated for those who have joined, yet the only way to follow a world-readable room without
joining it. Its tokens are those of /sync.

Spec: client-server API, "Room previews" (`peeking_events`), and the deprecated part of "Syncing".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.accounts.requester import Requester
from yizhan_server.ephemeral.counter import EphemeralCounter
from yizhan_server.ephemeral.presence import Presence
from yizhan_server.ephemeral.receipts import Receipts
from yizhan_server.ephemeral.typing import Typing
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.stream_token import PageToken, SyncToken
from yizhan_server.rooms.access import ReadableRoom, RoomAccess
from yizhan_server.rooms.aliases import Aliases
from yizhan_server.rooms.reading import RoomReading
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.rendering import EventRenderer, Reader
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.event_stream import first_events_after
from yizhan_server.storage.events import StoredEvent
from yizhan_server.storage.rooms import Membership
from yizhan_server.streams import Stream
from yizhan_server.sync.account_data import AccountDataChanges
from yizhan_server.sync.filters import EventFilter

JsonObject = dict[str, Any]

PUSH_RULES = "m.push_rules"
OLDEST = PageToken(0, 0).serialize()
"""The place before a room's first event."""


@dataclass(frozen=True, slots=True)
class _Span:
    """What an answer covers: positions in (after, upto], typing and presence after `heard`."""

    after: int
    upto: int
    heard: int


class EventStream:
    """Answers /events and /initialSync."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        rooms: Rooms,
        access: RoomAccess,
        reading: RoomReading,
        renderer: EventRenderer,
        aliases: Aliases,
        account_data: AccountDataChanges,
        receipts: Receipts,
        counter: EphemeralCounter,
        typing: Typing,
        presence: Presence,
    ) -> None:
        self._db = db
        self._stream = stream
        self._rooms = rooms
        self._access = access
        self._reading = reading
        self._renderer = renderer
        self._aliases = aliases
        self._account_data = account_data
        self._receipts = receipts
        self._counter = counter
        self._typing = typing
        self._presence = presence

    async def events(
        self,
        requester: Requester,
        start: SyncToken | None,
        *,
        timeout_ms: int,
        limit: int,
        peeked: ReadableRoom | None = None,
    ) -> bytes:
        """Return what came after `start` (or now), waiting for it if there is nothing yet.

        At most `limit` room events. With `peeked`, what happens in that room only.
        """
        user_id = requester.user_id
        now = self._now()
        if start is None or start.epoch != now.epoch or start.position > now.position:
            start = now
        self._presence.seen(user_id, "online")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        # Beside the long poll of /sync, which a device may run at the same time.
        name = f"{requester.device_id} /events"
        peeking = nullcontext() if peeked is None else peeked.room.peeked_by(user_id)
        with peeking, self._stream.listen(user_id, name) as listener:
            while True:
                chunk, end = await self._after(requester, start, limit, peeked)
                if chunk or self._stream.closing or listener.superseded:
                    break
                if not await listener.heard(deadline - loop.time()):
                    break
        return orjson.dumps({"start": start.serialize(), "end": end.serialize(), "chunk": chunk})

    async def initial(self, requester: Requester, *, limit: int, archived: bool) -> bytes:
        """Return everything about the user's rooms, with the last `limit` events of each."""
        user_id, now = requester.user_id, self._now()
        self._presence.seen(user_id, "online")
        account_data = await self._account_data.changed(user_id, None, now.position)
        rooms: list[JsonObject] = []
        receipts: list[JsonObject] = []
        for membership in await stored_rooms.memberships_of_user(self._db, user_id):
            room = (await self._rooms.by_nid([membership.room]))[membership.room]
            if membership.membership in ("invite", "knock"):
                rooms.append(await self._invitation(room, membership))
                continue
            joined = membership.membership == "join"
            if not joined and not archived:
                continue
            # Who is banned after leaving reads no more than when leaving.
            upto = await self._access.end_of_stay(room, user_id, now.position)
            if upto is None:
                continue
            readable = ReadableRoom(room, user_id, membership.membership, upto)
            section = await self._room(Reader(readable, requester.device_id), limit)
            section["account_data"] = account_data.by_room.get(room.room_id, [])
            rooms.append(section)
            if joined:
                receipts += await self._receipt_event(room, user_id, 0, upto)
        shared = {user_id, *await stored_rooms.users_sharing_rooms(self._db, user_id)}
        return orjson.dumps(
            {
                "end": now.serialize(),
                "rooms": rooms,
                "presence": self._presence_of(shared),
                "receipts": receipts,
                # There is an endpoint for the push rules; they were never among this.
                "account_data": [e for e in account_data.everywhere if e["type"] != PUSH_RULES],
            }
        )

    async def room_initial(
        self, requester: Requester, readable: ReadableRoom, *, limit: int
    ) -> bytes:
        """Return one room with its last `limit` events; also to somebody who only peeks."""
        user_id, room, now = requester.user_id, readable.room, self._now()
        readable = replace(readable, upto=min(readable.upto, now.position))
        section = await self._room(Reader(readable, requester.device_id), limit)
        account_data = await self._account_data.changed(user_id, None, now.position)
        section["account_data"] = account_data.by_room.get(room.room_id, [])
        section["presence"] = []
        section["receipts"] = []
        if readable.membership not in ("leave", "ban"):
            members = await stored_rooms.members(self._db, room.nid, "join")
            section["presence"] = self._presence_of(self._presence.of(members))
            section["receipts"] = await self._receipt_event(room, user_id, 0, readable.upto)
        return orjson.dumps(section)

    def _now(self) -> SyncToken:
        return SyncToken(
            self._stream.epoch, self._stream.position, self._counter.boot, self._counter.value
        )

    async def _after(
        self, requester: Requester, start: SyncToken, limit: int, peeked: ReadableRoom | None
    ) -> tuple[list[Any], SyncToken]:
        """Return what came after `start`, in order of arrival, and the token behind it."""
        user_id, end = requester.user_id, self._now()
        heard = start.ephemeral if start.boot == end.boot else 0
        memberships = []
        if peeked is None:
            memberships = await stored_rooms.memberships_of_user(self._db, user_id)
        rooms = await self._rooms.by_nid([membership.room for membership in memberships])
        found: list[tuple[StoredEvent, ReadableRoom]] = []
        for membership in memberships:
            readable = ReadableRoom(
                rooms[membership.room], user_id, membership.membership,
                LATEST if membership.membership == "join" else membership.pos,
            )  # fmt: skip
            events = await self._of_member(
                readable, membership, start.position, end.position, limit
            )
            found += [(event, readable) for event in events]
        if peeked is not None:
            events = await self._of_room(peeked, start.position, end.position, limit)
            found += [(event, peeked) for event in events]
        found.sort(key=lambda each: each[0].pos)
        if len(found) > limit:
            del found[limit:]
            # What is newer than the last of them comes with the next answer.
            end = replace(end, position=found[-1][0].pos)
        chunk: list[Any] = []
        for event, readable in found:
            reader = Reader(readable, requester.device_id)
            chunk += await self._fragments(reader, [event])
        span = _Span(start.position, end.position, heard)
        if peeked is not None:
            present = await peeked.room.local_users()
            chunk += await self._ephemeral([peeked.room], user_id, span, present)
        else:
            joined = [rooms[each.room] for each in memberships if each.membership == "join"]
            sharing = {user_id, *await stored_rooms.users_sharing_rooms(self._db, user_id)}
            chunk += await self._ephemeral(joined, user_id, span, sharing)
            changes = await self._account_data.changed(user_id, span.after, span.upto)
            chunk += changes.everywhere
            chunk += [
                {**event, "room_id": room_id}
                for room_id, events_of_room in changes.by_room.items()
                for event in events_of_room
            ]
        return chunk, end

    async def _of_member(
        self, readable: ReadableRoom, membership: Membership, after: int, upto: int, limit: int
    ) -> list[StoredEvent]:
        """Return the first `limit` events in (after, upto] that happened while the user was in."""
        user_id, room = readable.user_id, readable.room
        if membership.membership == "join":
            if await room.last_position(upto) <= after:
                return []
        elif membership.pos <= after:
            return []
        elif not await self._access.was_joined(room, user_id):
            # Invited, or no longer: of such a room only that much is known.
            if membership.pos > upto:
                return []
            return list((await stored_events.events_by_nid(self._db, [membership.event])).values())
        events = await self._of_room(readable, after, upto, limit)
        before = await self._access.membership_at(readable, events)
        return [
            event
            for event, then in zip(events, before, strict=True)
            if then == "join" or (event.type == "m.room.member" and event.state_key == user_id)
        ]

    async def _of_room(
        self, readable: ReadableRoom, after: int, upto: int, limit: int
    ) -> list[StoredEvent]:
        """Return the first `limit` events in (after, upto] that the reader may see."""
        picked: list[StoredEvent] = []
        while len(picked) <= limit:
            page = await first_events_after(self._db, readable.room.nid, after, upto, limit + 1)
            picked += await self._access.visible(readable, page)
            if len(page) <= limit:
                break
            after = page[-1].pos
        return picked[: limit + 1]

    async def _ephemeral(
        self, rooms: Iterable[Room], user_id: UserID, span: _Span, present: Iterable[str]
    ) -> list[JsonObject]:
        """Return receipts, typing and presence as events."""
        events: list[JsonObject] = []
        by_nid = {room.nid: room for room in rooms}
        changed = await self._receipts.rooms_changed(user_id, list(by_nid), span.after, span.upto)
        for nid in changed:
            events += await self._receipt_event(by_nid[nid], user_id, span.after, span.upto)
        typing = self._typing.changed_after(span.heard)
        events += [
            {
                "type": "m.typing",
                "room_id": room.room_id,
                "content": {"user_ids": typing[room.room_id]},
            }
            for room in by_nid.values()
            if room.room_id in typing
        ]
        moved = self._presence.changed_after(span.heard)
        return events + self._presence_of(user for user in present if user in moved)

    async def _receipt_event(
        self, room: Room, user_id: UserID, after: int, upto: int
    ) -> list[JsonObject]:
        content = await self._receipts.changed(room, user_id, after, upto)
        if not content:
            return []
        return [{"type": "m.receipt", "room_id": room.room_id, "content": content}]

    def _presence_of(self, users: Iterable[str]) -> list[JsonObject]:
        return [
            {
                "type": "m.presence",
                "sender": user,
                # In the old form the content itself says whose presence it is.
                "content": {"user_id": user, **self._presence.get(UserID(user))},
            }
            for user in users
        ]

    async def _room(self, reader: Reader, limit: int) -> JsonObject:
        """Return state and last events of a room, as of where its reader may read to."""
        readable, room = reader.readable, reader.room
        page = await self._reading.messages(
            readable, backwards=True, start=None, stop=None, limit=limit, wanted=EventFilter()
        )
        state = await self._reading.state(readable)
        published = await self._aliases.is_published(room)
        now = replace(self._now(), position=min(readable.upto, self._stream.position))
        section: JsonObject = {
            "room_id": room.room_id,
            "visibility": "public" if published else "private",
            "messages": {
                "start": page.end or OLDEST,
                "end": now.serialize(),
                "chunk": await self._fragments(reader, page.events[::-1]),
            },
            "state": await self._fragments(reader, state),
        }
        if readable.membership != "peek":
            section["membership"] = readable.membership
        return section

    async def _invitation(self, room: Room, membership: Membership) -> JsonObject:
        """Return the room of an invitation or a knock, of which only that event is known."""
        events = await stored_events.events_by_nid(self._db, [membership.event])
        rendered = await self._renderer.render_plain(room, list(events.values()))
        return {
            "room_id": room.room_id,
            "membership": membership.membership,
            "inviter": membership.sender,
            membership.membership: orjson.Fragment(rendered[0]),
        }

    async def _fragments(self, reader: Reader, events: list[StoredEvent]) -> list[orjson.Fragment]:
        """Return the events in the form of that time, in which `user_id` says who sent them."""
        rendered = await self._renderer.render(reader, events)
        return [
            orjson.Fragment(each[:-1] + b',"user_id":' + orjson.dumps(event.sender) + b"}")
            for event, each in zip(events, rendered, strict=True)
        ]
