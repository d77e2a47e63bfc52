"""What a room looks like from outside, and whom to name it after.

Spec: client-server API, "Stripped state", "Calculating the display name for a room".
"""

from __future__ import annotations

from typing import Any

from yizhan_database import Database
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.room import Room
from yizhan_server.storage import rooms as stored_rooms

JsonObject = dict[str, Any]

HEROES = 5

STRIPPED_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)
"""State that somebody invited or knocking is shown. Spec: "Stripped state"."""


async def find_heroes(db: Database, room: Room, user_id: UserID) -> list[tuple[str, int]]:
    """Return (user, member event) of those whom a room without a name is named after."""
    for memberships in (("join", "invite"), ("leave", "ban")):
        found = await stored_rooms.first_members(db, room.nid, memberships, user_id, HEROES)
        if found:
            return found
    return []


async def stripped_state(room: Room, user_id: UserID) -> list[JsonObject]:
    """Return the stripped state for somebody invited or knocking."""
    events = [await room.state_event(kind) for kind in STRIPPED_TYPES]
    member = await room.state_event("m.room.member", user_id)
    if member is not None:
        events.append(await room.state_event("m.room.member", member.pdu.sender))
        if member.pdu.sender != user_id:
            events.append(member)
    return [
        {
            "type": event.pdu.type,
            "sender": event.pdu.sender,
            "state_key": event.pdu.state_key,
            "content": event.pdu.content,
            # Not in the stripped form, but what clients order their invitations by.
            **(
                {"origin_server_ts": event.pdu.origin_server_ts, "event_id": event.pdu.event_id}
                if event is member
                else {}
            ),
        }
        for event in events
        if event is not None
    ]
