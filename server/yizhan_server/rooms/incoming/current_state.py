"""What new ends of a room make of its current state.

Spec: server-server API, "Room State Resolution".
"""

from __future__ import annotations

from collections.abc import Sequence

from yizhan_database import Database
from yizhan_server.rooms.merging import Resolver, merge
from yizhan_server.rooms.point_state import PointState
from yizhan_server.rooms.room import LATEST, Room, StateChanges, StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.rooms import Extremity
from yizhan_server.storage.state import Point


async def changes_by_ends(
    db: Database,
    keys: StateKeys,
    resolver: Resolver,
    room: Room,
    extremities: Sequence[Extremity],
) -> StateChanges:
    """Return how the current state differs once `extremities` are the room's ends.

    All of them are durable. Hold the room's lock.
    """
    ends = [Point(each.line, each.seq) for each in extremities]
    new = await merge(resolver, room, ends)
    touched = set(new.changes)
    former = [Point(each.line, each.seq) for each in room.tail.extremities]
    if former:
        old = await merge(resolver, room, former)
        touched |= set(old.changes)
        touched |= (await stored_state.differences(db, old.base, new.base)).keys()
    else:
        touched |= set(await stored_state.full_state_at(db, new.base))
    after = PointState(db, keys, room.version, new)
    changed: dict[int, int] = {}
    for key in touched:
        number = await after.number_of(key)
        if number != (await stored_state.current_state_event(db, room.nid, key, LATEST) or 0):
            changed[key] = number
    pdus = await stored_events.pdus_by_nid(
        db, [nid for nid in changed.values() if nid], room.version
    )
    names = await stored_state.keys_by_nid(db, list(changed))
    return {names[key]: StateEvent(nid, pdus[nid]) if nid else None for key, nid in changed.items()}
