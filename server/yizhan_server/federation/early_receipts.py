"""Receipts of other servers' users at events that are not here yet.

The reader's server may be faster than that of the event, or the event stands in a gap. The latest
receipt of each reader is kept in memory, and tried again when its room has news. Nothing of this
need arrive: of too many the oldest give way, and none waits longer than an hour.

Spec: server-server API, "Receipts".
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import MatrixError
from yizhan_server.storage import events as stored_events

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.ephemeral.receipts import Receipts
    from yizhan_server.protocol.identifiers import ServerName, UserID
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.rooms.room import Room
    from yizhan_server.streams import Stream

MAX_OF_SERVER, MAX_SERVERS = 100, 100
LONGEST_MS = 3_600_000

_Reader = tuple[int, "UserID", str | None]
"""Room, user and thread: who has one receipt."""


@dataclass(frozen=True, slots=True)
class _Early:
    event_id: str
    ts_ms: int
    kept_ms: int


class EarlyReceipts:
    """Takes receipts, now or when their event comes."""

    def __init__(
        self, db: Database, stream: Stream, clock: Clock, rooms: Rooms, receipts: Receipts
    ) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._rooms = rooms
        self._receipts = receipts
        self._kept: OrderedDict[ServerName, OrderedDict[_Reader, _Early]] = OrderedDict()

    async def receive(
        self,
        origin: ServerName,
        room: Room,
        user_id: UserID,
        event_id: str,
        thread_id: str | None,
        ts_ms: int,
    ) -> None:
        """Take the receipt of a user of `origin`, who is joined to the room.

        It replaces what is kept of the same reader, who has read on since.
        """
        reader = (room.nid, user_id, thread_id)
        # Kept first: the event may come while it is looked for.
        early = _Early(event_id, ts_ms, self._clock.now_ms())
        self._keep(origin, reader, early)
        await self._try(origin, room, reader, early)

    async def run(self) -> None:
        """Try again what is kept of rooms that have news; in the background."""
        await self._stream.follow_from_now(self._look)

    async def _look(self, after: int, upto: int) -> None:
        if not self._kept:
            return
        news = await stored_events.rooms_with_events(self._db, after, upto)
        oldest_ms = self._clock.now_ms() - LONGEST_MS
        by_room: dict[int, list[tuple[ServerName, _Reader, _Early]]] = defaultdict(list)
        for origin, of_server in list(self._kept.items()):
            for reader, early in list(of_server.items()):
                if early.kept_ms < oldest_ms:
                    self._drop(origin, reader, early)
                elif reader[0] in news:
                    by_room[reader[0]].append((origin, reader, early))
        for nid, waiting in by_room.items():
            here = await stored_events.placed_among(
                self._db, nid, {early.event_id for _, _, early in waiting}
            )
            if not here:
                continue
            room = (await self._rooms.by_nid([nid]))[nid]
            for origin, reader, early in waiting:
                if early.event_id in here:
                    await self._try(origin, room, reader, early)

    async def _try(self, origin: ServerName, room: Room, reader: _Reader, early: _Early) -> None:
        _, user_id, thread_id = reader
        if await room.membership(user_id) != "join":
            self._drop(origin, reader, early)
            return
        try:
            is_known = await self._receipts.receive(
                room, user_id, early.event_id, thread_id, early.ts_ms
            )
        except MatrixError:
            is_known = True  # and in another thread: it will not come to be in this one
        if is_known:
            self._drop(origin, reader, early)

    def _keep(self, origin: ServerName, reader: _Reader, early: _Early) -> None:
        of_server = self._kept.setdefault(origin, OrderedDict())
        self._kept.move_to_end(origin)
        of_server.pop(reader, None)
        of_server[reader] = early
        if len(of_server) > MAX_OF_SERVER:
            of_server.popitem(last=False)
        if len(self._kept) > MAX_SERVERS:
            self._kept.popitem(last=False)

    def _drop(self, origin: ServerName, reader: _Reader, early: _Early) -> None:
        of_server = self._kept.get(origin)
        if of_server is None or of_server.get(reader) is not early:
            return
        del of_server[reader]
        if not of_server:
            del self._kept[origin]
