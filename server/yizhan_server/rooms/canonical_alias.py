"""Keeping `m.room.canonical_alias` true when an alias is taken away.

Spec: client-server API, DELETE /directory/room/{roomAlias}: servers may update the event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import Forbidden
from yizhan_server.rooms.writer import Draft, EventWriter

if TYPE_CHECKING:
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.rooms.room import Room

KIND = "m.room.canonical_alias"


async def forget_alias(writer: EventWriter, room: Room, user_id: UserID, alias: str) -> None:
    """Send the room's aliases without `alias`, if it names it and the user has the power."""
    event = await room.state_event(KIND)
    if event is None:
        return
    content = dict(event.pdu.content)
    if content.get("alias") == alias:
        del content["alias"]
    others = content.get("alt_aliases")
    if isinstance(others, list) and alias in others:
        content["alt_aliases"] = [other for other in others if other != alias]
    if content == event.pdu.content:
        return
    try:
        await writer.send(room, Draft(user_id, KIND, content, ""))
    except Forbidden:
        # The creator of an alias may take it away without any power in the room.
        return
