"""Unread counts: events that notify, beyond how far the user has read.

Count = what the predefined rules flagged, plus or minus the user's own differences, without one's
own events, per thread, after the furthest of m.read, m.read.private and one's own last event there.
The counts of a (room, user) are kept and carried forward, so that a new event costs one row.

Spec: client-server API, "Receiving notifications", "Threaded read receipts".
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from yizhan_database import Database
from yizhan_server.ephemeral.receipts import MAIN
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.room import Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import push_exceptions as stored_exceptions
from yizhan_server.storage import receipts as stored_receipts
from yizhan_server.storage.events import HIGHLIGHT, NOTIFY
from yizhan_server.storage.receipts import UNTHREADED

MAX_COUNTED = 5000
"""Events looked at for one count; whoever has more unread sees the count of the newest."""
CACHED = 20_000

Floors = dict[str, int]
"""Read position by thread; UNTHREADED holds for all of them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Unread events of a room, those of its threads included."""

    notify: int
    highlight: int
    threads: dict[str, tuple[int, int]]
    """(notify, highlight) by thread root, without the main timeline."""


@dataclass(slots=True)
class _Counted:
    """Counts carried so far: up to `upto`, after `floors`."""

    upto: int
    floors: Floors
    unread: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    """(pos, notify, highlight) of the unread events, by thread, in order."""


class UnreadCounts:
    """Counts what a user has not read."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._cache: OrderedDict[tuple[int, str], _Counted] = OrderedDict()

    async def of(self, room: Room, user_id: UserID, upto: int) -> Counts:
        """Return the counts of a room for one of its members, as of a stream position."""
        key = (room.nid, user_id)
        receipts = await self._receipts(room, user_id)
        counted = self._cache.get(key)
        if counted is None or counted.upto > upto:
            # What came before the user's own member event, or before what was read in all
            # threads, is not unread.
            start = max(await self._begin(room, user_id), receipts[UNTHREADED])
            counted = _Counted(min(upto, start), dict(receipts))
        for thread, position in receipts.items():
            if position > counted.floors.get(thread, 0):
                counted.floors[thread] = position
        await self._carry(counted, room, user_id, upto)
        self._cache[key] = counted
        self._cache.move_to_end(key)
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return _sum(counted, upto)

    async def _carry(self, counted: _Counted, room: Room, user_id: UserID, upto: int) -> None:
        """Take in the events in (counted.upto, upto]."""
        after = counted.upto
        if await room.last_position(upto) <= after:
            return
        exceptions = {
            pos: (notify, highlight)
            for pos, notify, highlight in await stored_exceptions.exceptions_after(
                self._db, room.nid, user_id, after, upto
            )
        }
        judged = await stored_receipts.judged_events(self._db, room.nid, after, upto, MAX_COUNTED)
        if counted.upto != after:
            # A sync of another device has taken them in meanwhile.
            await self._carry(counted, room, user_id, upto)
            return
        for pos, thread, flags, sender in reversed(judged):
            of_thread = MAIN if thread is None else thread
            if sender == user_id:
                counted.floors[of_thread] = pos
                continue
            notify, highlight = exceptions.get(pos, (0, 0))
            notify += bool(flags & NOTIFY)
            highlight += bool(flags & HIGHLIGHT)
            if notify or highlight:
                counted.unread.setdefault(of_thread, []).append((pos, notify, highlight))
        counted.upto = upto

    async def _receipts(self, room: Room, user_id: UserID) -> Floors:
        floors: Floors = {UNTHREADED: 0}
        for receipt in await stored_receipts.receipts_of_user(self._db, room.nid, user_id):
            floors[receipt.thread] = max(floors.get(receipt.thread, 0), receipt.event_pos)
        return floors

    async def _begin(self, room: Room, user_id: UserID) -> int:
        """Return the position of the user's own member event."""
        member = await room.state_event("m.room.member", user_id)
        if member is None:
            return 0
        found = await stored_events.events_by_nid(self._db, [member.nid])
        return found[member.nid].pos


def _sum(counted: _Counted, upto: int) -> Counts:
    everything = counted.floors[UNTHREADED]
    threads: dict[str, tuple[int, int]] = {}
    for thread, events in list(counted.unread.items()):
        floor = max(everything, counted.floors.get(thread, 0))
        left = [event for event in events if event[0] > floor]
        if left:
            counted.unread[thread] = left
            # The counts may have been carried further for another device.
            shown = [event for event in left if event[0] <= upto]
            threads[thread] = (sum(e[1] for e in shown), sum(e[2] for e in shown))
        else:
            del counted.unread[thread]
    main = threads.pop(MAIN, (0, 0))
    return Counts(
        main[0] + sum(each[0] for each in threads.values()),
        main[1] + sum(each[1] for each in threads.values()),
        threads,
    )
