"""What a room's join rule says, as far as the room's version knows it.

Spec: client-server API, "Restricted rooms", "Knocking on rooms".
"""

from __future__ import annotations

from collections.abc import Iterable

from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room


async def join_rule_of(room: Room) -> str:
    """Return the join rule; `invite` where there is none."""
    event = await room.state_event("m.room.join_rules")
    rule = None if event is None else event.pdu.content.get("join_rule")
    return rule if isinstance(rule, str) else "invite"


async def is_knockable(room: Room) -> bool:
    """Whether everybody who is not banned may knock."""
    rule = await join_rule_of(room)
    if rule == "knock":
        return room.version.knocking
    return rule == "knock_restricted" and room.version.knock_restricted_joins


async def allowed_rooms(room: Room) -> list[str] | None:
    """Return the rooms whose members may join a restricted room; None if it is not restricted."""
    rule = await join_rule_of(room)
    restricted = (rule == "restricted" and room.version.restricted_joins) or (
        rule == "knock_restricted" and room.version.knock_restricted_joins
    )
    if not restricted:
        return None
    event = await room.state_event("m.room.join_rules")
    conditions = None if event is None else event.pdu.content.get("allow")
    return [
        condition["room_id"]
        for condition in (conditions if isinstance(conditions, list) else [])
        if isinstance(condition, dict)
        and condition.get("type") == "m.room_membership"
        and isinstance(condition.get("room_id"), str)
    ]


async def is_in_any(rooms: Rooms, room_ids: Iterable[str], user_id: str) -> bool:
    """Whether the user is joined to one of these rooms."""
    for room_id in room_ids:
        room = await rooms.find(room_id)
        if room is not None and await room.membership(user_id) == "join":
            return True
    return False
