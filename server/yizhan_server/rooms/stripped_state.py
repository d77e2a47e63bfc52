"""The events that describe a room to somebody invited or knocking.

Spec: client-server API, "Stripped state"; server-server API, PUT /invite.
"""

from __future__ import annotations

from yizhan_server.protocol.event import Pdu
from yizhan_server.rooms.room import Room

STRIPPED_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)


async def described_by(room: Room, *members: str) -> list[Pdu]:
    """Return the room's describing state events, and the member events of `members`."""
    keys = [(kind, "") for kind in STRIPPED_TYPES]
    keys += [("m.room.member", user_id) for user_id in members]
    events = [await room.state_event(*key) for key in keys]
    return [event.pdu for event in events if event is not None]
