"""Reading rooms: state, members, pages of history, the surroundings of an event.

Pages are ordered by (depth, pos): topologically. A token may bound the positions of all
following pages, so that paging back from a sync never shows what came after it.

Spec: client-server API, "Getting events for a room".
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from yizhan_database import Database
from yizhan_server.federation_client.remembered import Ask
from yizhan_server.protocol.errors import BadJson, InvalidParam, MatrixError, NotFound
from yizhan_server.protocol.identifiers import InvalidIdentifier, UserID, parse_room_alias
from yizhan_server.protocol.stream_token import PageToken, SyncToken, parse_token
from yizhan_server.rooms.access import JoinedRoom, ReadableRoom, RoomAccess, VisibleEvent
from yizhan_server.rooms.aliases import Aliases
from yizhan_server.rooms.incoming.backfill import Backfill
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.rendering import event_bytes
from yizhan_server.rooms.room import LATEST
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REDACTED, StoredEvent

TOP = 2**53
"""Greater than any depth."""

MAX_SCANNED = 5000
"""Events looked at for one page; a page that a filter leaves empty has an `end` all the same."""


REQUESTS = 2
"""Rounds of asking other servers for one page."""


class EventSelection(Protocol):
    """Selects the events of a page."""

    @property
    def lazy_load_members(self) -> bool:
        """Whether only the member events of the page's senders are wanted as state."""
        ...

    def passes(self, event: StoredEvent) -> bool:
        """Whether this event is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A page of history with the tokens around it."""

    events: list[StoredEvent]
    state: list[StoredEvent]
    start: str
    end: str | None


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a page begins, and what ends it."""

    start: tuple[int, int]
    bound: int | None
    stop: PageToken | None
    backwards: bool


@dataclass(frozen=True, slots=True)
class _Collected:
    """What of a page is here."""

    events: list[StoredEvent]
    place: tuple[int, int]
    """Of the last event that was looked at."""
    exhausted: bool
    lowest: int
    """The depth down to which the room was looked through."""


@dataclass(frozen=True, slots=True)
class Context:
    """An event with its neighbours; `before` is newest first."""

    readable: ReadableRoom
    event: StoredEvent
    before: list[StoredEvent]
    after: list[StoredEvent]
    state: list[StoredEvent]
    start: str
    end: str


@dataclass(frozen=True, slots=True)
class ReadableState:
    """A state event with the proof that it may be read."""

    readable: ReadableRoom
    event: StoredEvent

    @property
    def event_json(self) -> bytes:
        """The JSON that every reader may see."""
        return event_bytes(self.event, self.readable.room)


class RoomReading:
    """Answers questions about rooms that somebody may read."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        keys: StateKeys,
        access: RoomAccess,
        aliases: Aliases,
        backfill: Backfill,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._keys = keys
        self._access = access
        self._aliases = aliases
        self._backfill = backfill

    async def joined_rooms(self, user_id: UserID) -> list[str]:
        """Return the rooms that a user is joined to."""
        joined = [
            each.room
            for each in await stored_rooms.memberships_of_user(self._db, user_id)
            if each.membership == "join"
        ]
        ids = await stored_rooms.room_ids(self._db, joined)
        return [ids[nid] for nid in joined]

    async def memberships(self, user_id: UserID) -> dict[str, str]:
        """Return what a user is to each room, those that they left or forgot included."""
        rooms = await stored_rooms.rooms_of_user(self._db, user_id, 0)
        return {room.room_id: room.membership for room in rooms}

    async def state_event(self, readable: ReadableRoom, kind: str, state_key: str) -> ReadableState:
        """Return a state event as the reader may see it now, or answer M_NOT_FOUND."""
        key = await self._keys.find((kind, state_key))
        nid = None
        if key is not None:
            nid = await stored_state.current_state_event(
                self._db, readable.room.nid, key, readable.upto
            )
        if nid is None:
            raise NotFound("There is no such state in this room")
        return ReadableState(readable, (await stored_events.events_by_nid(self._db, [nid]))[nid])

    async def state(self, readable: ReadableRoom) -> list[StoredEvent]:
        """Return the current state, or that of the reader's leave."""
        state = await stored_state.current_state(self._db, readable.room.nid, readable.upto)
        return list((await stored_events.events_by_nid(self._db, list(state.values()))).values())

    async def members(
        self,
        readable: ReadableRoom,
        *,
        membership: str | None,
        not_membership: str | None,
        at: str | None,
    ) -> list[StoredEvent]:
        """Return the member events, now or at a token, by membership if asked."""
        upto = readable.upto
        if at is not None:
            upto = min(upto, _position(parse_token(at)))
        keys = await stored_state.keys_of_type(self._db, readable.room.nid, "m.room.member")
        state = await stored_state.current_state(self._db, readable.room.nid, upto)
        wanted = [state[key] for key in keys if key in state]
        events = (await stored_events.events_by_nid(self._db, wanted)).values()
        if membership is None and not_membership is None:
            return list(events)
        found = []
        for event in events:
            now = event.content.get("membership")
            if membership is not None and now != membership:
                continue
            if not_membership is not None and now == not_membership:
                continue
            found.append(event)
        return found

    async def joined_members(self, joined: JoinedRoom) -> dict[str, dict[str, Any]]:
        """Return display name and avatar of each joined member, as far as they are texts."""
        readable = ReadableRoom(joined.room, joined.user_id, "join", LATEST)
        events = await self.members(readable, membership="join", not_membership=None, at=None)
        members: dict[str, dict[str, Any]] = {}
        for event in events:
            content = {} if event.flags & REDACTED else event.content
            shown = {
                "display_name": content.get("displayname"),
                "avatar_url": content.get("avatar_url"),
            }
            members[event.state_key or ""] = {
                key: value for key, value in shown.items() if isinstance(value, str)
            }
        return members

    async def messages(
        self,
        readable: ReadableRoom,
        *,
        backwards: bool,
        start: str | None,
        stop: str | None,
        limit: int,
        wanted: EventSelection,
        ignored: AbstractSet[str] = frozenset(),
        reach: bool = True,
    ) -> Page:
        """Return a page in topological order; of users in `ignored` only what is state.

        With `reach`, a member who pages back beyond what is here waits for other servers' answers.
        """
        if start is None:
            token = PageToken(TOP, LATEST, None) if backwards else PageToken(0, 0, None)
        else:
            given = parse_token(start)
            token = _page_token(given)
            if isinstance(given, SyncToken) and not backwards:
                last = await readable.room.events_after(0, given.position, 1)
                token = PageToken(last[0].depth, last[0].pos) if last else PageToken(0, 0)
        place, bound = (token.depth, token.position), token.bound
        stop_at = None if stop is None else _page_token(parse_token(stop))
        if not backwards and token.depth == TOP:
            place, bound = await self._place_after(readable, token.position), None
        span = _Span(place, bound, stop_at, backwards)
        found = await self._collect(readable, span, limit, wanted, ignored)
        is_edge = False
        if backwards and limit and reach and readable.membership == "join":
            for _ in range(REQUESTS):
                if not await self._backfill.reach(readable.room, found.lowest, token.depth):
                    break
                found = await self._collect(readable, span, limit, wanted, ignored)
            # There is more to come, unless this page has not moved at all.
            is_edge = found.place != place and await self._backfill.is_at_edge(
                readable.room, found.lowest, token.depth
            )
        end = None
        if not found.exhausted or is_edge or (not backwards and start is not None):
            end = _serialize(found.place, bound)
        state: list[StoredEvent] = []
        if wanted.lazy_load_members and found.events:
            state = await self._members_of(readable, {event.sender for event in found.events})
        return Page(found.events, state, start or _serialize(place, bound), end)

    async def _collect(
        self,
        readable: ReadableRoom,
        span: _Span,
        limit: int,
        wanted: EventSelection,
        ignored: AbstractSet[str],
    ) -> _Collected:
        """Return the events of a page, as far as they are here."""
        place = span.start
        limits = [each for each in (span.bound, readable.upto) if each is not None]
        picked: list[StoredEvent] = []
        exhausted, scanned, is_stopped = limit == 0, 0, False
        while len(picked) < limit and not exhausted and scanned < MAX_SCANNED:
            page = await stored_events.events_by_depth(
                self._db, readable.room.nid, place,
                backwards=span.backwards, bound=min(limits), limit=limit + 1,
            )  # fmt: skip
            exhausted = len(page) <= limit
            scanned += len(page)
            if span.stop is not None:
                within = [
                    each for each in page if _is_before(each, span.stop, backwards=span.backwards)
                ]
                is_stopped = len(within) < len(page)
                exhausted = exhausted or is_stopped
                page = within
            seen = {event.nid for event in await self._access.visible(readable, page)}
            for event in page:
                if len(picked) == limit:
                    exhausted = False
                    break
                place = (event.depth, event.pos)
                if event.sender in ignored and event.state_key is None:
                    continue
                if event.nid in seen and wanted.passes(event):
                    picked.append(event)
        return _Collected(picked, place, exhausted, 0 if exhausted and not is_stopped else place[0])

    async def context(
        self,
        visible: VisibleEvent,
        *,
        limit: int,
        wanted: EventSelection,
        ignored: AbstractSet[str] = frozenset(),
    ) -> Context:
        """Return an event with about `limit` neighbours, and the state at the last of them."""
        readable, event = visible.readable, visible.event
        before, after = await self.around(
            visible, before=limit // 2, after=limit - limit // 2, wanted=wanted, ignored=ignored,
            reach=True,
        )  # fmt: skip
        last = after.events[-1] if after.events else event
        if wanted.lazy_load_members:
            senders = {each.sender for each in (event, *before.events, *after.events)}
            state = await self._members_of(readable, senders)
        elif last.line == 0:
            # History, of which only the current state is known.
            state = await self.state(readable)
        else:
            numbers = await stored_state.full_state_at(
                self._db, stored_state.Point(last.line, last.seq)
            )
            state = list(
                (await stored_events.events_by_nid(self._db, list(numbers.values()))).values()
            )
        first = before.events[-1] if before.events else event
        return Context(
            readable, event, before.events, after.events, state,
            _serialize((first.depth, first.pos), None), _serialize((last.depth, last.pos), None),
        )  # fmt: skip

    async def around(
        self,
        visible: VisibleEvent,
        *,
        before: int,
        after: int,
        wanted: EventSelection,
        ignored: AbstractSet[str] = frozenset(),
        reach: bool = False,
    ) -> tuple[Page, Page]:
        """Return the pages just before (newest first) and just after an event."""
        token = _serialize((visible.event.depth, visible.event.pos), None)
        pages = [
            await self.messages(
                visible.readable, backwards=backwards, start=token, stop=None, limit=limit,
                wanted=wanted, ignored=ignored, reach=reach,
            )
            for backwards, limit in ((True, before), (False, after))
        ]  # fmt: skip
        return pages[0], pages[1]

    async def check_canonical_alias(self, room_id: str, content: dict[str, Any], ask: Ask) -> None:
        """Answer M_BAD_ALIAS unless every *newly* named alias points to this room.

        `ask` is called before another server is asked for one.

        Spec: `m.room.canonical_alias`, "Error responses".
        """
        room = await self._rooms.get(room_id)
        current = await room.state_event("m.room.canonical_alias")
        old = _aliases_in({} if current is None else current.pdu.content)
        for alias in _aliases_in(content) - old:
            try:
                parse_room_alias(alias)
            except InvalidIdentifier as error:
                raise InvalidParam(str(error)) from None
            try:
                target = await self._aliases.locate(alias, ask)
            except NotFound:
                target = None
            if target is None or target.room_id != room_id:
                raise MatrixError(400, "M_BAD_ALIAS", "The alias does not point to this room")

    async def _place_after(self, readable: ReadableRoom, position: int) -> tuple[int, int]:
        """Return the place from which going forwards yields what came after `position`."""
        last = await stored_events.events_after(self._db, readable.room.nid, 0, position, 1)
        return (last[-1].depth, last[-1].pos) if last else (0, 0)

    async def _members_of(self, readable: ReadableRoom, users: set[str]) -> list[StoredEvent]:
        nids = []
        for user in users:
            key = await self._keys.find(("m.room.member", user))
            if key is None:
                continue
            nid = await stored_state.current_state_event(
                self._db, readable.room.nid, key, readable.upto
            )
            if nid is not None:
                nids.append(nid)
        return list((await stored_events.events_by_nid(self._db, nids)).values())


def _is_before(event: StoredEvent, stop: PageToken, *, backwards: bool) -> bool:
    """Whether a page that ends at `stop` still holds the event."""
    if stop.depth == TOP:
        # The token of a sync: a moment, not a place among the events.
        return event.pos > stop.position if backwards else event.pos <= stop.position
    here, place = (event.depth, event.pos), (stop.depth, stop.position)
    return here > place if backwards else here <= place


def _serialize(place: tuple[int, int], bound: int | None) -> str:
    return PageToken(min(place[0], TOP), min(place[1], 10**17), bound).serialize()


def _page_token(token: SyncToken | PageToken) -> PageToken:
    """Return the place of either kind of token; a sync token bounds the positions."""
    if isinstance(token, PageToken):
        return token
    return PageToken(TOP, token.position, token.position)


def _position(token: SyncToken | PageToken) -> int:
    """Return the stream position that a token stands for."""
    if isinstance(token, SyncToken):
        return token.position
    return token.position if token.bound is None else token.bound


def _aliases_in(content: dict[str, Any]) -> set[str]:
    alias, others = content.get("alias"), content.get("alt_aliases", [])
    if (alias is not None and not isinstance(alias, str)) or not isinstance(others, list):
        raise BadJson("'alias' must be a string and 'alt_aliases' a list")
    if not all(isinstance(other, str) for other in others):
        raise BadJson("'alt_aliases' must be a list of strings")
    return {*([alias] if alias else []), *others}
