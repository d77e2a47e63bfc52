"""Searching messages, names and topics in the rooms that are not encrypted.

The server cannot read encrypted rooms, so it finds nothing there: clients that keep an index of
their own search those. Of the others only what the reader may see is found, in rooms that were
left as of the leave.

Matches are read newest first, bounded; `rank` orders the newest `RANKED` of them.

Spec: client-server API, "Server Side Search".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from yizhan_database import Database
from yizhan_server.accounts.ignoring import Ignoring
from yizhan_server.accounts.requester import Requester
from yizhan_server.protocol.canonical_json import parse_roughly
from yizhan_server.protocol.errors import Forbidden, InvalidParam
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.access import ReadableRoom, RoomAccess, VisibleEvent
from yizhan_server.rooms.reading import EventSelection, RoomReading
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.rendering import EventRenderer, Reader
from yizhan_server.search.message_index import MESSAGE, NAME, TOPIC, MessageIndex
from yizhan_server.search.tokens import phrases_of, words_of
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import search as storage
from yizhan_server.storage.events import REDACTED, StoredEvent
from yizhan_server.storage.state import Point

PAGE = 200
MAX_SCANNED = 5000
"""Matches looked at for one answer; a page that ends there has a token all the same."""
RANKED = 1000
MAX_COUNT = RANKED
MAX_ROOMS = 5000
TOP = 2**62

TYPES = {"content.body": MESSAGE, "content.name": NAME, "content.topic": TOPIC}

_TOKEN = re.compile(r"(r|k)([0-9]{1,19})(?:_([0-9]{1,6}))?", re.ASCII)


class Selection(EventSelection, Protocol):
    """The events and rooms that are wanted."""

    @property
    def rooms(self) -> AbstractSet[str] | None:
        """Only these rooms; None: all."""
        ...

    @property
    def not_rooms(self) -> AbstractSet[str]:
        """Not these rooms."""
        ...


@dataclass(frozen=True, slots=True)
class Around:
    """How much to show around each match."""

    before: int
    after: int
    include_profile: bool


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is searched for."""

    term: str
    keys: AbstractSet[str]
    wanted: Selection
    limit: int
    by_rank: bool
    around: Around | None
    include_state: bool
    groups: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Hit:
    """A match that the reader may see."""

    nid: int
    """The number of the indexed event, by which pages are counted."""
    rank: float
    event: VisibleEvent


@dataclass(slots=True)
class _Found:
    hits: list[_Hit]
    token: str | None
    count: int | None
    """Of all hits, up to `MAX_COUNT`, if that is known by the way."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is sought, where, and of whom not."""

    criteria: Criteria
    readable: dict[int, ReadableRoom]
    phrases: storage.Phrases
    ignored: AbstractSet[str]


class MessageSearch:
    """Searches on behalf of a user."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        access: RoomAccess,
        reading: RoomReading,
        renderer: EventRenderer,
        ignoring: Ignoring,
        index: MessageIndex,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._access = access
        self._reading = reading
        self._renderer = renderer
        self._ignoring = ignoring
        self._index = index

    async def run(self) -> None:
        """Keep the index in step with the stream; in the background."""
        await self._index.run()

    async def search(
        self, requester: Requester, criteria: Criteria, next_batch: str | None
    ) -> dict[str, Any]:
        """Return the `room_events` of the answer."""
        start = _parse(next_batch, criteria)
        await self._index.catch_up()
        user_id = requester.user_id
        readable = await self._readable_rooms(user_id, criteria.wanted)
        phrases = phrases_of(criteria.term)
        found = _Found([], None, 0)
        if readable and phrases:
            scope = _Scope(criteria, readable, phrases, await self._ignoring.ignored_by(user_id))
            found = await self._page(scope, start)
            # Not what the index has: it knows of words that were said when the reader was away.
            if found.count is None:
                found.count = len((await self._collect(scope, TOP, MAX_COUNT))[0])
        answer: dict[str, Any] = {
            "count": found.count,
            "highlights": words_of(criteria.term),
            "results": [await self._result(requester, criteria, hit) for hit in found.hits],
        }
        if found.token is not None:
            answer["next_batch"] = found.token
        if criteria.groups:
            answer["groups"] = _grouped(criteria.groups, found.hits)
        if criteria.include_state:
            answer["state"] = await self._states(requester, found.hits)
        return answer

    async def _readable_rooms(self, user_id: UserID, wanted: Selection) -> dict[int, ReadableRoom]:
        """Return the rooms that may hold matches: wanted, readable, not encrypted."""
        names = None if wanted.rooms is None else await self._with_predecessors(wanted.rooms)
        readable: dict[int, ReadableRoom] = {}
        memberships = [
            each.room
            for each in await stored_rooms.memberships_of_user(self._db, user_id)
            if each.membership in ("join", "leave", "ban")
        ]
        rooms = await self._rooms.by_nid(memberships[:MAX_ROOMS])
        for number, room in enumerate(rooms.values()):
            if number % 50 == 49:
                await asyncio.sleep(0)
            if room.room_id in wanted.not_rooms or (
                names is not None and room.room_id not in names
            ):
                continue
            try:
                found = await self._access.access_readable_room(user_id, room.room_id)
            except Forbidden:
                continue
            if await found.room.state_event("m.room.encryption") is None:
                readable[room.nid] = found
        return readable

    async def _with_predecessors(self, room_ids: AbstractSet[str]) -> set[str]:
        """Return these rooms and those that they replaced: to people they are one."""
        names: set[str] = set()
        waiting = list(room_ids)
        while waiting and len(names) < MAX_ROOMS:
            room_id = waiting.pop()
            if room_id in names:
                continue
            names.add(room_id)
            room = await self._rooms.find(room_id)
            create = None if room is None else await room.state_event("m.room.create")
            predecessor = None if create is None else create.pdu.content.get("predecessor")
            if isinstance(predecessor, dict) and isinstance(predecessor.get("room_id"), str):
                waiting.append(predecessor["room_id"])
        return names

    async def _page(self, scope: _Scope, start: _Start) -> _Found:
        """Return a page in the order that was asked for."""
        limit = scope.criteria.limit
        if not scope.criteria.by_rank:
            hits, below = await self._collect(scope, start.below, limit)
            is_all = start.below == TOP and below is None
            return _Found(
                hits, None if below is None else f"r{below}", len(hits) if is_all else None
            )
        hits, _ = await self._collect(scope, start.below, RANKED)
        top = hits[0].nid + 1 if start.below == TOP and hits else start.below
        hits.sort(key=lambda hit: (-hit.rank, -hit.nid))
        page = hits[start.skip : start.skip + limit]
        token = f"k{top}_{start.skip + limit}" if len(page) == limit else None
        return _Found(page, token, len(hits) if start.below == TOP else None)

    async def _collect(
        self, scope: _Scope, below: int, limit: int
    ) -> tuple[list[_Hit], int | None]:
        """Return the last hits below a number, and where the next begin unless that was all."""
        hits: list[_Hit] = []
        scanned = 0
        while scanned < MAX_SCANNED:
            matches = await storage.matching_events(
                self._db, scope.phrases, scope.readable.keys(), below, PAGE
            )
            scanned += len(matches)
            hits += (await self._visible(scope, matches))[: limit - len(hits)]
            if len(hits) == limit:
                return hits, hits[-1].nid
            if len(matches) < PAGE:
                return hits, None
            below = matches[-1][1].nid
            await asyncio.sleep(0)
        return hits, below

    async def _visible(
        self, scope: _Scope, matches: Sequence[tuple[float, StoredEvent]]
    ) -> list[_Hit]:
        """Return the matches that may be shown; for an edit, the event that it edits."""
        criteria = scope.criteria
        rooms = {room.room.room_id: room for room in scope.readable.values()}
        types = {TYPES[key] for key in criteria.keys}
        found: list[tuple[float, ReadableRoom, list[StoredEvent]]] = []
        of_rooms: dict[int, list[StoredEvent]] = {}
        for rank, match in matches:
            if match.type not in types or match.flags & REDACTED or match.sender in scope.ignored:
                continue
            room = rooms[parse_roughly(match.client)["room_id"]]
            shown = [match]
            if match.rel_type == "m.replace" and match.rel_to is not None:
                original = await stored_events.find_event(self._db, match.rel_to)
                if original is None or original[0] != room.room.nid:
                    continue
                shown.append(original[1])
            if criteria.wanted.passes(shown[-1]):
                found.append((rank, room, shown))
                of_rooms.setdefault(room.room.nid, []).extend(shown)
        seen: set[int] = set()
        for nid, events in of_rooms.items():
            seen |= await self._seen(scope.readable[nid], events)
        return [
            _Hit(shown[0].nid, rank, VisibleEvent(room, shown[-1]))
            for rank, room, shown in found
            if all(event.nid in seen for event in shown)
        ]

    async def _seen(self, readable: ReadableRoom, events: Sequence[StoredEvent]) -> set[int]:
        """Return the numbers of those events whose content the reader may see."""
        visible = await self._access.visible(readable, events)
        memberships = await self._access.membership_at(readable, visible)
        left = await self._access.without_erased(visible, memberships)
        return {event.nid for event in left if not event.flags & REDACTED}

    async def _result(self, requester: Requester, criteria: Criteria, hit: _Hit) -> dict[str, Any]:
        reader = Reader(hit.event.readable, requester.device_id)
        body = (await self._renderer.render(reader, [hit.event.event]))[0]
        # `user_id` is from before the specification's first version; suites still look for it.
        sender = orjson.dumps(hit.event.event.sender)
        result: dict[str, Any] = {
            "rank": hit.rank,
            "result": orjson.Fragment(body[:-1] + b',"user_id":' + sender + b"}"),
        }
        if criteria.around is not None:
            result["context"] = await self._context(requester, criteria.around, reader, hit)
        return result

    async def _context(
        self, requester: Requester, wanted: Around, reader: Reader, hit: _Hit
    ) -> dict[str, Any]:
        before, after = await self._reading.around(
            hit.event, before=wanted.before, after=wanted.after, wanted=_Everything(),
            ignored=await self._ignoring.ignored_by(requester.user_id),
        )  # fmt: skip
        context: dict[str, Any] = {
            "events_before": await self._fragments(reader, before.events),
            "events_after": await self._fragments(reader, after.events),
            "start": before.end or before.start,
            "end": after.end or after.start,
        }
        if wanted.include_profile:
            shown = [hit.event.event, *before.events, *after.events]
            context["profile_info"] = await self._profiles(hit.event.readable, shown)
        return context

    async def _profiles(
        self, readable: ReadableRoom, events: Sequence[StoredEvent]
    ) -> dict[str, dict[str, str]]:
        """Return what the senders were called when they sent these events."""
        profiles: dict[str, dict[str, str]] = {}
        for event in events:
            if event.sender in profiles:
                continue
            member = await self._access.state_at(
                readable.room, Point(event.line, event.seq), ("m.room.member", event.sender)
            )
            content = {} if member is None else member.content
            profiles[event.sender] = {
                key: content[key]
                for key in ("displayname", "avatar_url")
                if isinstance(content.get(key), str)
            }
        return profiles

    async def _states(self, requester: Requester, hits: Sequence[_Hit]) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for hit in hits:
            readable = hit.event.readable
            if readable.room.room_id not in states:
                events = await self._reading.state(readable)
                reader = Reader(readable, requester.device_id)
                states[readable.room.room_id] = await self._fragments(reader, events)
        return states

    async def _fragments(
        self, reader: Reader, events: Sequence[StoredEvent]
    ) -> list[orjson.Fragment]:
        return [orjson.Fragment(each) for each in await self._renderer.render(reader, events)]


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a page begins: below a number, or so far down the ranking of what is below it."""

    below: int
    skip: int


class _Everything:
    """Selects every event."""

    lazy_load_members = False

    def passes(self, event: StoredEvent) -> bool:
        """Whether this event is wanted: yes."""
        return True


def _parse(next_batch: str | None, criteria: Criteria) -> _Start:
    if next_batch is None:
        return _Start(TOP, 0)
    token = _TOKEN.fullmatch(next_batch)
    if token is None or (token[1] == "k") != criteria.by_rank:
        raise InvalidParam("'next_batch' is not a token of this search")
    return _Start(min(int(token[2]), TOP), int(token[3] or 0))


def _grouped(keys: Sequence[str], hits: Sequence[_Hit]) -> dict[str, Any]:
    """Return the event ids of a page by room or sender; the best group first."""
    groups: dict[str, Any] = {}
    for key in keys:
        of_key: dict[str, Any] = {}
        for hit in hits:
            readable, event = hit.event.readable, hit.event.event
            name = readable.room.room_id if key == "room_id" else event.sender
            group = of_key.setdefault(name, {"order": len(of_key) + 1, "results": []})
            group["results"].append(event.event_id)
        groups[key] = of_key
    return groups
