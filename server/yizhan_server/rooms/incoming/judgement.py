"""Whether an event is permitted: by the events that it names, and by a state of its room.

Spec: server-server API, "Checks performed on receipt of a PDU", 4 to 6; "Rejection";
"Soft failure".
"""

from __future__ import annotations

from collections.abc import Mapping

from yizhan_database import Database
from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.auth_rules import check_auth, check_auth_events_selection
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.power import StateSource
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.events import REJECTED, KnownPdu
from yizhan_server.storage.state import StateKey

CREATE = ("m.room.create", "")


class AuthEventsMissing(Exception):
    """Auth events of an event are not here, so that nothing can be said of it."""


async def permitting_state(
    state: StateSource, pdu: Pdu, version: RoomVersion
) -> dict[StateKey, Pdu]:
    """Return the part of a state that says whether `pdu` is permitted."""
    keys = auth_types_for_event(pdu.type, pdu.sender, pdu.state_key, pdu.content, version)
    found: dict[StateKey, Pdu] = {}
    for key in dict.fromkeys([CREATE, *keys]):
        event = await state(key)
        if event is not None:
            found[key] = event.pdu
    return found


async def check_by_state(state: StateSource, pdu: Pdu, version: RoomVersion) -> None:
    """Raise AuthRuleRejection unless a state of the room permits the event."""
    check_auth(pdu, await permitting_state(state, pdu, version), version)


def check_by_auth_events(
    pdu: Pdu,
    known: Mapping[EventID, KnownPdu],
    create: Pdu | None,
    version: RoomVersion,
) -> None:
    """Raise AuthRuleRejection unless the event's own auth events permit it.

    `known` holds them, rejected ones included; AuthEventsMissing when it does not. `create` is
    for room versions whose events do not name the create event.
    """
    if not all(event_id in known for event_id in pdu.auth_events):
        raise AuthEventsMissing(pdu.event_id)
    named = [known[event_id] for event_id in pdu.auth_events]
    rejected = {each.pdu.event_id for each in named if each.flags & REJECTED}
    check_auth_events_selection(pdu, [each.pdu for each in named], rejected, version)
    state = {each.pdu.key: each.pdu for each in named if each.pdu.is_state}
    if create is not None and not version.create_is_auth_event:
        state[CREATE] = create
    check_auth(pdu, state, version)


async def judge_by_auth_events(
    db: Database,
    room: int,
    pdu: Pdu,
    known: Mapping[EventID, KnownPdu],
    create: Pdu | None,
    version: RoomVersion,
) -> None:
    """Do the same, and raise AuthRuleRejection also for an auth event that another room has."""
    try:
        check_by_auth_events(pdu, known, create, version)
    except AuthEventsMissing:
        missing = [event_id for event_id in pdu.auth_events if event_id not in known]
        if await stored_events.of_other_rooms(db, room, missing):
            raise AuthRuleRejection(
                "auth_events.other_room", "an auth event of another room"
            ) from None
        raise
