"""Which event a redaction names, and whether its sender may have it pruned.

Up to version 2 this is an authorisation rule as well; from version 3 a redaction is an
ordinary event and is judged only when it is applied.

Spec: room versions 3 and 11, "Handling redactions".
"""

from __future__ import annotations

from dataclasses import dataclass

from yizhan_database import Database
from yizhan_server.protocol.auth_rules import may_redact
from yizhan_server.protocol.errors import Forbidden, InvalidParam, NotFound
from yizhan_server.protocol.event import Pdu
from yizhan_server.rooms.point_state import PointState
from yizhan_server.rooms.power import StateSource, current_power_levels, power_levels_in
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import Merge
from yizhan_server.storage.events import (
    StoredEvent,
    find_event,
    pdus_by_nid,
    pending_redactions,
)
from yizhan_server.storage.state import Point, StateKey


@dataclass(frozen=True, slots=True)
class RedactionTarget:
    """What a redaction names; `event` is set when it is here and may be pruned."""

    event_id: str
    event: StoredEvent | None

    @property
    def state_key(self) -> StateKey | None:
        """The state key of the target, if it is a state event."""
        if self.event is None or self.event.state_key is None:
            return None
        return (self.event.type, self.event.state_key)


async def find_redaction_target(
    db: Database, room: Room, redaction: Pdu, state: StateSource
) -> RedactionTarget | None:
    """Return what our own user's `redaction` names, or answer why it may not be pruned.

    None for a redaction that names nothing.
    """
    if redaction.redacts is None:
        return None
    found = await find_event(db, redaction.redacts)
    if found is None:
        raise NotFound("There is no such event")
    if found[0] != room.nid:
        raise InvalidParam("The event is in another room")
    target = found[1]
    levels = await power_levels_in(state, room.version)
    # The rules would let any user of the target's server do this, since a server may speak for
    # all its users. Among our own users only the sender may.
    if target.sender != redaction.sender and levels.of_user(redaction.sender) < levels.redact:
        raise Forbidden("You may only redact your own events")
    return RedactionTarget(redaction.redacts, target)


def is_redaction(pdu: Pdu) -> bool:
    """Whether an event names another one to be pruned."""
    return pdu.type == "m.room.redaction" and pdu.redacts is not None


async def find_remote_target(
    db: Database, room: Room, redaction: Pdu, state: StateSource
) -> RedactionTarget | None:
    """Return what a redaction of another server names; None if it prunes nothing, ever.

    Without its event the target is not here yet: the redaction waits for it. `state` is that
    before the redaction.
    """
    if not is_redaction(redaction):
        return None
    assert redaction.redacts is not None, "a redaction names something"
    found = await find_event(db, redaction.redacts)
    if found is None:
        return RedactionTarget(redaction.redacts, None)
    if found[0] != room.nid or not await _may_redact(db, room, redaction, found[1], state):
        return None
    return RedactionTarget(redaction.redacts, found[1])


async def _may_redact(
    db: Database, room: Room, redaction: Pdu, target: StoredEvent, state: StateSource
) -> bool:
    """Whether an accepted redaction is to be applied; before version 3 the rules have said so."""
    if room.version.has_redaction_rule:
        return True
    pdus = await pdus_by_nid(db, [target.nid], room.version)
    levels = await power_levels_in(state, room.version)
    return may_redact(redaction, pdus[target.nid], levels)


async def may_redact_now(db: Database, room: Room, redaction: Pdu, target: StoredEvent) -> bool:
    """Whether the room, as it is now, permits a redaction, whatever its version."""
    pdus = await pdus_by_nid(db, [target.nid], room.version)
    return may_redact(redaction, pdus[target.nid], await current_power_levels(room))


async def find_waiting_redaction(
    db: Database, keys: StateKeys, room: Room, target: Pdu
) -> int | None:
    """Return the number of a redaction that came before `target` and prunes it."""
    for each in await pending_redactions(db, target.event_id, room.nid, room.version):
        if each.line is None or each.seq is None:
            continue
        if room.version.has_redaction_rule:
            return each.nid
        # A redaction is no state event: the state after it is the state before it.
        merged = Merge(Point(each.line, each.seq))
        state = PointState(db, keys, room.version, merged)
        # Where it stands its sender may have chosen.
        before = await power_levels_in(state.event, room.version)
        now = await current_power_levels(room)
        if all(may_redact(each.pdu, target, levels) for levels in (before, now)):
            return each.nid
    return None
