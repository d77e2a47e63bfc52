"""Which events end a room's DAG once another one has come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from yizhan_database import Database
from yizhan_server.protocol.identifiers import EventID, server_name_of
from yizhan_server.rooms.room import Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.events import REJECTED, SOFT_FAILED, KnownPdu
from yizhan_server.storage.rooms import Extremity

MAX_EXTREMITIES = 10
"""An event of ours refers to all of them; more than these would be resolved again and again."""

MAX_SEEN_THROUGH = 100
"""Rejected and soft-failed events that are looked through for the ends before them."""


async def next_extremities(
    db: Database, room: Room, event: Extremity, prevs: Mapping[EventID, KnownPdu]
) -> tuple[Extremity, ...]:
    """Return the ends of the room after an accepted event that refers to `prevs`.

    Rejected and soft-failed events are no ends, nor are those of history, with which a gap was
    left; who refers to one takes the place of the ends before it.
    """
    covered = {str(event_id) for event_id in prevs}
    unseen = [each for each in prevs.values() if _is_no_end(each)]
    for _ in range(MAX_SEEN_THROUGH):
        if not unseen:
            break
        further = set(unseen.pop().pdu.prev_events) - covered
        covered |= further
        known = await stored_events.known_pdus(db, room.nid, further, room.version)
        unseen += [each for each in known.values() if _is_no_end(each)]
    kept = [each for each in room.tail.extremities if each.event_id not in covered]
    if len(kept) >= MAX_EXTREMITIES:
        kept = await _thinned(db, kept, MAX_EXTREMITIES - 1)
    return (*kept, event)


def _is_no_end(known: KnownPdu) -> bool:
    return bool(known.flags & (REJECTED | SOFT_FAILED)) or known.pos is None or known.pos < 0


async def _thinned(db: Database, ends: list[Extremity], size: int) -> list[Extremity]:
    """Leave out ends of the server that has the most of them, its oldest first.

    A server that floods the room with forks so pushes out its own ends and nobody else's.
    """
    senders = await stored_events.events_by_nid(db, [end.nid for end in ends])
    by_server: dict[str | None, list[Extremity]] = defaultdict(list)
    for end in ends:
        by_server[server_name_of(senders[end.nid].sender)].append(end)
    while sum(map(len, by_server.values())) > size:
        max(by_server.values(), key=len).pop(0)
    left = {end.nid for of_server in by_server.values() for end in of_server}
    return [end for end in ends if end.nid in left]
