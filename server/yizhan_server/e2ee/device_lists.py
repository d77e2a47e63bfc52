"""Whose device lists a user's clients must fetch again, and whose they may forget.

Both follow from two records: changes of devices and keys, and changes of memberships. A user
with whom a shared room ended and began again within the window is always `changed`: what
happened to their devices meanwhile was told to nobody here. So is somebody of no shared room who is
invited to one: clients that let history be read from the invitation on encrypt for them, too.

Spec: client-server API, "Tracking the device list for a user", "Extensions to /sync".
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.stream_token import SyncToken, parse_sync_token
from yizhan_server.storage import device_changes as storage
from yizhan_server.storage import rooms as stored_rooms

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from yizhan_database import Database
    from yizhan_server.storage.device_changes import MemberChange
    from yizhan_server.streams import Stream

SINGLE_CHECKS = 100
"""Up to so many users are asked for one by one whether they share a room; above, all that do
are read."""

EVENTS_PER_READ = 500


@dataclass(slots=True)
class _Span:
    """One member of one room within the window."""

    before: int
    """The member event at its beginning; 0 for none."""
    within: list[int] = field(default_factory=list)

    def at_end(self) -> int:
        return self.within[-1] if self.within else self.before

    def joined_at_end(self, joins: set[int]) -> bool:
        return self.at_end() in joins

    def joined_throughout(self, joins: set[int]) -> bool:
        return self.before in joins and all(event in joins for event in self.within)

    def joined_ever(self, joins: set[int]) -> bool:
        return self.before in joins or any(event in joins for event in self.within)


@dataclass(slots=True)
class _Sharing:
    """What changes of memberships did to the sharing of rooms."""

    begun: set[str] = field(default_factory=set)
    """Share a room now, and had not done so, or not without a break."""
    ended: set[str] = field(default_factory=set)
    """No longer share a room that they shared; perhaps another one."""
    invited: set[str] = field(default_factory=set)
    """Have been invited to a room of the viewer's; perhaps they share another one."""


class DeviceLists:
    """Answers what changed."""

    def __init__(self, db: Database, stream: Stream) -> None:
        self._db = db
        self._stream = stream

    async def changed(
        self, user_id: UserID, after: int, upto: int
    ) -> tuple[list[UserID], list[UserID]]:
        """Return (changed, left) for the stream positions in (after, upto].

        Who shares a room is judged as of now. Now may be later than `upto`; then what differs is
        told once more by the next window.
        """
        if upto <= after:
            return [], []
        changes = await storage.changes_within(self._db, user_id, after, upto)
        sharing = _Sharing()
        if changes.memberships:
            sharing = await self._changed_sharing(user_id, after, upto)
        moved = sharing.begun | sharing.ended | sharing.invited
        if not (changes.changed or changes.signed or moved):
            return [], []
        asked = (changes.changed | sharing.ended | sharing.invited) - sharing.begun - {user_id}
        still = await self._sharing_among(user_id, asked)
        changed = sharing.begun | (changes.changed & (still | {user_id})) | changes.signed
        changed |= sharing.invited - still
        left = sharing.ended - still - sharing.begun - sharing.invited - {user_id}
        return [UserID(each) for each in sorted(changed)], [UserID(each) for each in sorted(left)]

    async def changed_between(
        self, user_id: UserID, start: str, end: str
    ) -> tuple[list[UserID], list[UserID]]:
        """Return (changed, left) between two sync tokens. Raises InvalidParam."""
        now = self._stream.position
        after, upto = parse_sync_token(start), parse_sync_token(end)
        # What a token of another history proves is nothing: everything may have changed.
        return await self.changed(
            user_id,
            after.position if self._is_known(after) else 0,
            upto.position if self._is_known(upto) else now,
        )

    def _is_known(self, token: SyncToken) -> bool:
        return token.epoch == self._stream.epoch and token.position <= self._stream.position

    async def _sharing_among(self, user_id: UserID, others: AbstractSet[str]) -> set[str]:
        if not others:
            return set()
        if len(others) <= SINGLE_CHECKS:
            return await storage.sharing_among(self._db, user_id, others)
        return {*others} & {*await stored_rooms.users_sharing_rooms(self._db, user_id)}

    async def _changed_sharing(self, user_id: UserID, after: int, upto: int) -> _Sharing:
        changes = await storage.member_changes(self._db, user_id, after, upto)
        sharing = _Sharing()
        if not changes:
            return sharing
        rooms = _by_room(changes)
        for room, spans in rooms.items():
            if user_id not in spans:
                event = await storage.member_event_at(self._db, room, user_id, after)
                spans[user_id] = _Span(event)
        joins, invitations = await self._joins_and_invitations(rooms.values())
        entered = False
        for room, spans in rooms.items():
            own = spans.pop(user_id)
            if own.joined_at_end(joins):
                for member, span in spans.items():
                    if not span.joined_at_end(joins):
                        if span.joined_ever(joins):
                            sharing.ended.add(member)
                    elif not span.joined_throughout(joins):
                        sharing.begun.add(member)
                    if span.at_end() in invitations and span.before not in invitations:
                        sharing.invited.add(member)
                if not own.joined_throughout(joins):
                    entered = True
                    sharing.begun.update(await stored_rooms.members(self._db, room, "join"))
            elif own.joined_ever(joins):
                sharing.ended.update(await stored_rooms.members(self._db, room, "join"))
                sharing.ended.update(m for m, span in spans.items() if span.joined_ever(joins))
        if entered:
            # Whoever shared another room all along has been kept up to date.
            sharing.begun -= await storage.shared_since(self._db, user_id, after)
        sharing.begun.discard(user_id)
        return sharing

    async def _joins_and_invitations(
        self, rooms: Iterable[dict[str, _Span]]
    ) -> tuple[set[int], set[int]]:
        """Return which of all these member events say `join`, and which `invite`."""
        events = {
            event
            for spans in rooms
            for span in spans.values()
            for event in (span.before, *span.within)
            if event
        }
        said: dict[str, set[int]] = defaultdict(set)
        for portion in _portions(events, EVENTS_PER_READ):
            for nid, membership in (await storage.memberships_said(self._db, portion)).items():
                said[membership].add(nid)
            await asyncio.sleep(0)
        return said["join"], said["invite"]


def _by_room(changes: list[MemberChange]) -> dict[int, dict[str, _Span]]:
    rooms: dict[int, dict[str, _Span]] = defaultdict(dict)
    for change in changes:
        span = rooms[change.room].setdefault(change.member, _Span(change.event_before))
        span.within.append(change.event)
    return rooms


def _portions(values: Collection[int], size: int) -> Iterator[list[int]]:
    iterator = iter(values)
    while portion := list(islice(iterator, size)):
        yield portion
