"""Removing the history of a room up to a point.

Messages go. State events stay: whatever is kept is authorised by them, and the current state is
made of them; but they leave the history, as outliers. The forward extremities stay in any case.

Of the state log only those rows go that no event of the remaining history can look up: in each
line everything below the lowest place that such an event, or a line that forks off, stands at,
but for the newest row of each key. The current line stays whole: it also says who was when a
member, and so what they may still see.

Where the room is shared, the remaining history gets an edge there: whoever pages back beyond it is
shown what other servers have kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from yizhan_database import Database, Transaction
from yizhan_server.protocol.errors import InvalidParam, NotFound
from yizhan_server.protocol.identifiers import server_name_of
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.rooms.state_log import thin_state_log
from yizhan_server.storage import backward_extremities as stored_edges
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import purging as storage
from yizhan_server.storage import room_servers as stored_servers
from yizhan_server.storage.events import StoredEvent
from yizhan_server.storage.purging import OldEvent

log = logging.getLogger(__name__)

BATCH = 200
"""Events of one commit."""


class _PrevEvents(msgspec.Struct):
    """What an event says that it follows; in versions 1 and 2 with hashes beside the ids."""

    prev_events: list[str | tuple[str, Any]]

    def ids(self) -> list[str]:
        return [each if isinstance(each, str) else each[0] for each in self.prev_events]


_PREV_EVENTS = msgspec.json.Decoder(_PrevEvents)


class HistoryPurge:
    """Purges histories."""

    def __init__(self, db: Database, server_name: str) -> None:
        self._db = db
        self._server_name = server_name

    async def find_event(self, room: Room, event_id: str) -> StoredEvent:
        """Return an event of the room's history, to purge up to; M_NOT_FOUND for any other."""
        found = await stored_events.find_event(self._db, event_id)
        if found is None or found[0] != room.nid or not found[1].pos:
            raise NotFound("There is no such event in this room")
        return found[1]

    async def find_first_after(self, room: Room, ts_ms: int) -> StoredEvent:
        """Return the first event after a time, else the last that there is."""
        later = await stored_events.events_by_time(
            self._db, room.nid, (ts_ms, LATEST), backwards=False, limit=1
        )
        if not later:
            later = await stored_events.events_after(self._db, room.nid, 0, LATEST, 1)
        if not later:
            raise InvalidParam("The room has no history")
        return later[0]

    async def purge(self, room: Room, before: StoredEvent, *, local_too: bool) -> int:
        """Remove what precedes an event; returns how many events left the history.

        Messages of this server's own users are hidden and kept unless `local_too`: there may be
        no other copy of them.
        """
        extremities = {extremity.nid for extremity in room.committed.extremities}
        place, count = (0, storage.BEFORE_ALL), 0
        while page := await storage.events_below(self._db, room.nid, before.depth, place, BATCH):
            place = (page[-1].depth, page[-1].pos)
            going = [event for event in page if event.nid not in extremities]
            await self._remove(room, going, local_too=local_too)
            count += len(going)
            await asyncio.sleep(0)
        await self._note_edges(room, before.depth)
        await thin_state_log(self._db, room.nid, storage.scan_points(self._db, room.nid))
        log.info("history purged", extra={"room_id": room.room_id, "count": count})
        return count

    async def _note_edges(self, room: Room, depth: int) -> None:
        """Note which events before the remaining ones are gone, if others may have them."""
        tx = Transaction()
        stored_edges.delete_below(tx, room.nid, depth)
        await self._db.commit(tx)
        servers = await stored_servers.servers_now(self._db, room.nid)
        if all(server == self._server_name for server in servers):
            return
        named: dict[str, int] = {}
        async for _, at, rest in storage.scan_remaining(self._db, room.nid):
            for event_id in _PREV_EVENTS.decode(rest).ids():
                named[event_id] = max(at, named.get(event_id, 0))
            if len(named) >= BATCH:
                await self._note_missing(room, named)
                named = {}
        await self._note_missing(room, named)

    async def _note_missing(self, room: Room, named: Mapping[str, int]) -> None:
        """Note those of the events that are not here, with the depths of those that name them."""
        if not named:
            return
        gone = named.keys() - await storage.settled_events(self._db, room.nid, named)
        tx = Transaction()
        for event_id in sorted(gone):
            stored_edges.append_missing(tx, room.nid, [event_id], named[event_id])
        if gone:
            await self._db.commit(tx)

    async def _remove(self, room: Room, events: Sequence[OldEvent], *, local_too: bool) -> None:
        if not events:
            return
        redactions = [event.nid for event in events if event.type == "m.room.redaction"]
        kept = await storage.redactions_of_state(self._db, redactions) if redactions else set()
        hidden, deleted = [], []
        for event in events:
            is_local = server_name_of(event.sender) == self._server_name
            if event.is_state or event.nid in kept or (is_local and not local_too):
                hidden.append(event.nid)
            else:
                deleted.append(event)
        tx = Transaction()
        storage.hide_events(tx, hidden)
        storage.delete_events(tx, self._db, room.nid, deleted)
        storage.delete_judgements(tx, room.nid, [event.pos for event in events])
        nids = {event.nid for event in events}
        tx.after_commit(lambda _: room.purged(nids))
        await self._db.commit(tx)
