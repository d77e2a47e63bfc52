"""What a room looks like from outside, and whom to name it after.

Spec: client-server API, "Stripped state", "Calculating the display name for a room".
"""

from __future__ import annotations

from typing import Any

import orjson

from yizhan_database import Database
from yizhan_server.protocol.canonical_json import encode_any
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.stripped_state import STRIPPED_TYPES
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import invitations as stored_invitations
from yizhan_server.storage import rooms as stored_rooms

JsonObject = dict[str, Any]

HEROES = 5


async def find_heroes(db: Database, room: Room, user_id: UserID) -> list[tuple[str, int]]:
    """Return (user, member event) of those whom a room without a name is named after."""
    for memberships in (("join", "invite"), ("leave", "ban")):
        found = await stored_rooms.first_members(db, room.nid, memberships, user_id, HEROES)
        if found:
            return found
    return []


async def stripped_state(db: Database, room: Room, user_id: UserID) -> list[JsonObject]:
    """Return the stripped state for somebody invited or knocking."""
    told = await stored_invitations.find_state(db, room.nid, user_id)
    if told is not None:
        return [*told, *await _own_member_event(db, room, user_id)]
    events = [await room.state_event(kind) for kind in STRIPPED_TYPES]
    member = await room.state_event("m.room.member", user_id)
    if member is not None:
        events.append(await room.state_event("m.room.member", member.pdu.sender))
        if member.pdu.sender != user_id:
            events.append(member)
    return [_stripped(event.pdu, is_own=event is member) for event in events if event is not None]


async def _own_member_event(db: Database, room: Room, user_id: UserID) -> list[JsonObject]:
    """Return the event of an invitation or knock of a room that this server is not in."""
    membership = await stored_rooms.find_membership(db, room.nid, user_id)
    if membership is None:
        return []
    pdus = await stored_events.pdus_by_nid(db, [membership.event], room.version)
    return [_stripped(pdu, is_own=True) for pdu in pdus.values()]


def _stripped(pdu: Pdu, *, is_own: bool) -> JsonObject:
    event: JsonObject = {
        "type": pdu.type,
        "sender": pdu.sender,
        "state_key": pdu.state_key,
        # Rooms of versions 1 to 5 may hold integers that no other encoder spells.
        "content": orjson.Fragment(encode_any(pdu.content)),
    }
    if is_own:
        # Not in the stripped form, but what clients order their invitations by.
        event |= {"origin_server_ts": pdu.origin_server_ts, "event_id": pdu.event_id}
    return event
