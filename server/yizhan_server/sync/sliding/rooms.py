"""One room's part of the answer, and what the connection has of the room after it.

Everything is read as of the window's end, of a room that the user has left as of then.

Spec: MSC4186, "Room results", "Changing room configs", "RoomResult".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.ephemeral.unread import UnreadCounts
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.access import ReadableRoom, RoomAccess
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.rendering import EventRenderer, Reader
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.events import StoredEvent
from yizhan_server.storage.rooms import UserRoom
from yizhan_server.sync.changes import UserChanges, Window
from yizhan_server.sync.lazy_members import Client, LazyMembers
from yizhan_server.sync.sliding.connection import DIRECT, SentRoom
from yizhan_server.sync.sliding.lists import CoveredRoom
from yizhan_server.sync.sliding.request import RoomConfig
from yizhan_server.sync.sliding.required_state import MEMBER, Rules, matcher
from yizhan_server.sync.sliding.room_state import RoomState, StateChanges, shown_content
from yizhan_server.sync.summaries import find_heroes, stripped_state
from yizhan_server.sync.timelines import Timeline, Timelines

JsonObject = dict[str, Any]

BUMP_TYPES = (
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
)
"""Events that count as somebody having done something. Spec: MSC4186, `bump_stamp`."""

BUMP_DEPTH = 1000
"""Events looked back for one of these; a room without any since is as old as the membership."""

MAX_RULES = 100
"""How many rules a connection remembers for a room beyond what the client asks for now."""

STRIPPED = ("invite", "knock")


@dataclass(frozen=True, slots=True)
class SlidingReader:
    """Who reads, and over which connection."""

    user_id: UserID
    device_id: str
    client: Client
    ignored: frozenset[str]
    blocks_invites: bool
    directs: frozenset[str]


@dataclass(frozen=True, slots=True)
class RoomNews:
    """Which rooms may have something to tell, of those that the connection is up to date with."""

    eventful: frozenset[int]
    read: frozenset[int]
    """Where the user's own receipts moved, and with them the counts."""


@dataclass(frozen=True, slots=True)
class RoomAnswer:
    """One room's part of the answer."""

    body: JsonObject
    first_pos: int | None
    """Where its timeline begins; None without one."""
    afresh: bool
    """What the client had is replaced or extended backwards: other things are told again too."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One room, and how much of it the client has."""

    reader: SlidingReader
    covered: CoveredRoom
    room: Room
    window: Window
    """From what the client has (None: nothing that counts) to the end or the user's leave."""
    answered: int | None
    """The position of the last answer, whatever it was about: what is newer is live."""
    sent: SentRoom | None
    expanded: bool

    @property
    def member(self) -> UserRoom:
        return self.covered.room

    @property
    def config(self) -> RoomConfig:
        return self.covered.config

    @property
    def initial(self) -> bool:
        return self.window.after is None


class RoomAnswers:
    """Builds the parts of single rooms."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        access: RoomAccess,
        changes: UserChanges,
        state: RoomState,
        renderer: EventRenderer,
        timelines: Timelines,
        unread: UnreadCounts,
        lazy: LazyMembers,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._access = access
        self._changes = changes
        self._state = state
        self._renderer = renderer
        self._timelines = timelines
        self._unread = unread
        self._lazy = lazy

    def begin(self, client: Client) -> None:
        """A connection begins: the client has nothing."""
        self._lazy.forget(client)

    async def build(
        self,
        reader: SlidingReader,
        covered: CoveredRoom,
        sent: SentRoom | None,
        window: Window,
        news: RoomNews,
    ) -> tuple[RoomAnswer | None, SentRoom]:
        """Return a room's part, None without news; and what the connection has after it."""
        member, config = covered.room, covered.config
        since = None if sent is None else sent.upto or window.after
        direct = member.room_id in reader.directs
        if since is not None and member.pos > since and member.membership == "join":
            before = await self._changes.membership_at(member.nid, reader.user_id, since)
            if before != "join":
                since = None
        if sent is not None and since is not None and not (
            sent.upto
            or member.pos > since
            or member.nid in news.eventful
            or member.nid in news.read
            or direct != bool(sent.flags & DIRECT)
            or _widens(config, sent)
        ):  # fmt: skip
            return None, sent
        room = await self._rooms.get(member.room_id)
        end: int | None = window.upto
        if member.membership not in ("join", *STRIPPED):
            end = await self._access.end_of_stay(room, reader.user_id, window.upto)
        readable = (
            member.membership not in STRIPPED
            and end is not None
            # What ended between is not a stay, but an invitation, a knock, or a life outside.
            and (since is None or end > since or member.pos <= since)
        )
        task = _Task(
            reader, covered, room, Window(since, window.upto if end is None else end),
            window.after, sent,
            sent is not None and since is not None and config.limit > sent.limit,
        )  # fmt: skip
        if readable:
            return await self._readable(task, read=member.nid in news.read)
        flags = DIRECT if direct else 0
        unread = SentRoom(config.limit, config.required.rules, flags)
        if member.membership in STRIPPED:
            return await self._stripped(task), unread
        return await self._departure(task), unread

    async def _stripped(self, task: _Task) -> RoomAnswer | None:
        """Return what somebody invited or knocking is shown."""
        body = self._common(task)
        if task.initial or task.member.pos > (task.window.after or 0):
            state = await stripped_state(self._db, task.room, task.reader.user_id)
            # Whatever the client had of the room, this takes its place.
            body.update(
                initial=True, bump_stamp=task.member.pos, invite_state=state, stripped_state=state
            )
        elif "is_dm" not in body:
            return None
        return RoomAnswer(body, None, afresh=True)

    async def _departure(self, task: _Task) -> RoomAnswer | None:
        """Return the end of an invitation or knock that came to nothing."""
        if task.window.after is not None and task.member.pos <= task.window.after:
            return None
        found = await stored_events.events_by_nid(self._db, [task.member.event])
        rendered = await self._renderer.render_plain(task.room, list(found.values()))
        events = [orjson.Fragment(each) for each in rendered]
        body = self._common(task)
        body.update(bump_stamp=task.member.pos, required_state=events, timeline=events, num_live=1)
        return RoomAnswer(body, task.member.pos, afresh=False)

    async def _readable(self, task: _Task, *, read: bool) -> tuple[RoomAnswer | None, SentRoom]:
        """Return the part of a room that the user is or was in."""
        timeline = await self._timeline(task)
        changes = StateChanges()
        if not task.initial:
            changes = await self._state.changes(task.member.nid, task.window)
        state = await self._required_state(task, timeline, changes)
        removed = _removed(task, changes)
        body = self._common(task)
        if not (
            task.initial
            or task.expanded
            or state
            or removed
            or read
            or "is_dm" in body
            or (task.sent is not None and task.sent.upto)
            or (timeline is not None and (timeline.events or timeline.limited))
            or changes.events
        ):
            return None, self._after(task, timeline, changes)
        if task.initial:
            body["initial"] = True
        if task.expanded:
            body["unstable_expanded_timeline"] = body["expanded_timeline"] = True
        readable = self._proof(task)
        reader = Reader(readable, task.reader.device_id)
        if state or removed:
            rendered = await self._renderer.render(reader, state, bundle=False)
            body["required_state"] = [*(orjson.Fragment(each) for each in rendered), *removed]
        if timeline is not None:
            rendered = await self._renderer.render(reader, timeline.events, bundle=timeline.limited)
            body["timeline"] = [orjson.Fragment(each) for each in rendered]
            body["limited"] = timeline.limited
            body["prev_batch"] = timeline.prev_batch
            answered = task.window.upto if task.answered is None else task.answered
            body["num_live"] = sum(event.pos > answered for event in timeline.events)
        await self._add_summary(body, task, changes)
        await self._add_bump_stamp(body, task, timeline)
        if task.member.membership == "join":
            counts = await self._unread.of(task.room, task.reader.user_id, task.window.upto)
            body["notification_count"] = counts.notify
            body["highlight_count"] = counts.highlight
        first_pos = timeline.events[0].pos if timeline is not None and timeline.events else None
        answer = RoomAnswer(body, first_pos, task.initial or task.expanded)
        return answer, self._after(task, timeline, changes)

    @staticmethod
    def _proof(task: _Task) -> ReadableRoom:
        member = task.member
        upto = LATEST if member.membership == "join" else task.window.upto
        return ReadableRoom(task.room, task.reader.user_id, member.membership, upto)

    @staticmethod
    def _common(task: _Task) -> JsonObject:
        body: JsonObject = {"membership": task.member.membership}
        if task.covered.lists:
            body["lists"] = task.covered.lists
        direct = task.member.room_id in task.reader.directs
        told = task.sent is not None and bool(task.sent.flags & DIRECT)
        if direct != told or (task.initial and direct):
            body["is_dm"] = direct
        return body

    async def _timeline(self, task: _Task) -> Timeline | None:
        if task.config.limit == 0:
            return None
        window = Window(None, task.window.upto) if task.expanded else task.window
        return await self._timelines.read(
            self._proof(task), window, task.config.limit, task.reader.ignored, lambda _: True
        )

    async def _required_state(
        self, task: _Task, timeline: Timeline | None, changes: StateChanges
    ) -> list[StoredEvent]:
        """Return the wanted state that the client lacks."""
        rules, nid, upto = task.config.required.rules, task.member.nid, task.window.upto
        if task.initial or task.sent is None:
            chosen = await self._state.named_by(rules, nid, upto)
        else:
            matches = matcher(rules)
            chosen = [e for e in changes.events if matches(e.type, e.state_key or "")]
            chosen += await self._state.named_by(rules - task.sent.rules, nid, upto)
        if task.config.required.lazy_members:
            chosen += await self._lazy_members(task, timeline, changes, chosen)
        return list({event.nid: event for event in chosen}.values())

    async def _lazy_members(
        self,
        task: _Task,
        timeline: Timeline | None,
        changes: StateChanges,
        chosen: list[StoredEvent],
    ) -> list[StoredEvent]:
        """Return the members that the timeline is about and, without a gap, all changed ones."""
        about: set[str] = set()
        for event in () if timeline is None else timeline.events:
            about.add(event.sender)
            if event.type == MEMBER and event.state_key is not None:
                about.add(event.state_key)
        members = await self._state.member_events(task.member.nid, about, task.window.upto)
        if timeline is None or not timeline.limited:
            members.update(changes.members())
        if task.initial:
            self._lazy.forget_room(task.reader.client, task.member.nid)
        lacking = self._lazy.unsent(
            task.reader.client, task.member.nid, members,
            Window(task.answered, task.window.upto),
        )  # fmt: skip
        lacking -= {event.nid for event in chosen}
        return list((await stored_events.events_by_nid(self._db, list(lacking))).values())

    async def _add_summary(self, body: JsonObject, task: _Task, changes: StateChanges) -> None:
        """Say what the room is called and who is in it, as far as that changed."""
        nid, upto = task.member.nid, task.window.upto
        members_changed = task.initial or changes.touches(MEMBER)
        named = None
        if members_changed or changes.touches("m.room.name"):
            event = await self._state.event(nid, "m.room.name", "", upto)
            named = _text(event, "name")
            if changes.touches("m.room.name") or (task.initial and named is not None):
                body["name"] = named
        if task.initial or changes.touches("m.room.avatar"):
            avatar = _text(await self._state.event(nid, "m.room.avatar", "", upto), "url")
            if avatar is not None or not task.initial:
                body["avatar"] = avatar
        if task.member.membership != "join":
            return
        if named is None and (members_changed or "name" in body):
            body["heroes"] = await self._heroes(task)
        if members_changed:
            counts = await stored_rooms.membership_counts(self._db, nid)
            body["joined_count"] = counts.get("join", 0)
            body["invited_count"] = counts.get("invite", 0)

    async def _heroes(self, task: _Task) -> list[JsonObject]:
        heroes = await find_heroes(self._db, task.room, task.reader.user_id)
        members = await stored_events.events_by_nid(self._db, [event for _, event in heroes])
        described = []
        for user, event in heroes:
            hero = {"user_id": user}
            for field in ("displayname", "avatar_url"):
                value = _text(members[event], field)
                if value is not None:
                    hero[field] = value
            described.append(hero)
        return described

    async def _add_bump_stamp(
        self, body: JsonObject, task: _Task, timeline: Timeline | None
    ) -> None:
        """Say when somebody last did something, unless that is what the client knows."""
        if task.member.membership != "join":
            body["bump_stamp"] = task.member.pos
            return
        events = [] if timeline is None else timeline.events
        stamp = next((event.pos for event in reversed(events) if event.type in BUMP_TYPES), None)
        if stamp is None and (task.initial or timeline is None or timeline.limited):
            stamp = await stored_events.last_position_of_types(
                self._db, task.member.nid, BUMP_TYPES, task.window.upto, BUMP_DEPTH
            )
            if stamp is None:
                stamp = task.member.pos
        if stamp is not None:
            body["bump_stamp"] = stamp

    @staticmethod
    def _after(task: _Task, timeline: Timeline | None, changes: StateChanges) -> SentRoom:
        """Return what the connection has of the room once this part was received."""
        config, sent = task.config, task.sent
        flags = DIRECT if task.member.room_id in task.reader.directs else 0
        if sent is None or task.initial:
            return SentRoom(config.limit, config.required.rules, flags)
        limited = timeline is not None and timeline.limited
        limit = config.limit if limited or task.expanded else max(sent.limit, config.limit)
        return SentRoom(limit, _known(config.required.rules, sent.rules, changes), flags)


def _widens(config: RoomConfig, sent: SentRoom) -> bool:
    """Whether more is wanted of a room than the client has."""
    wanted = config.required.rules
    return config.limit > sent.limit or not (wanted is sent.rules or wanted <= sent.rules)


def _known(wanted: Rules, sent: Rules, changes: StateChanges) -> Rules:
    """Return the rules whose state the client has, given what changed.

    State that is no longer asked for stays known until it changes.
    """
    known = wanted | sent
    if len(known) > MAX_RULES:
        return wanted
    told, expected = matcher(wanted), matcher(sent)
    keys = [(event.type, event.state_key or "") for event in changes.events] + changes.removed
    if any(expected(*key) and not told(*key) for key in keys):
        return wanted
    return known


def _removed(task: _Task, changes: StateChanges) -> list[JsonObject]:
    """Return what tells that wanted state is no more."""
    matches = matcher(task.config.required.rules)
    return [
        {"type": kind, "state_key": state_key}
        for kind, state_key in changes.removed
        if matches(kind, state_key)
    ]


def _text(event: StoredEvent | None, field: str) -> str | None:
    value = None if event is None else shown_content(event).get(field)
    return value if isinstance(value, str) and value else None
