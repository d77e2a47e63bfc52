"""What outsiders are shown of a room: directory entries, summaries, nodes of a space.

Spec: client-server API, "Listing rooms", "Room previews" (GET /room_summary), "Spaces".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yizhan_server.federation_client.remembered import Ask
from yizhan_server.protocol.errors import NotFound
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.join_rules import allowed_rooms, is_in_any, is_knockable, join_rule_of
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.remote_summaries import RemoteSummaries
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import ServerAccess

_TEXTS = (
    ("m.room.name", "name", "name"),
    ("m.room.topic", "topic", "topic"),
    ("m.room.canonical_alias", "alias", "canonical_alias"),
    ("m.room.avatar", "url", "avatar_url"),
    ("m.room.join_rules", "join_rule", "join_rule"),
    ("m.room.create", "type", "room_type"),
)


class RoomSummaries:
    """Summarises rooms for whoever may know of them."""

    def __init__(self, rooms: Rooms, access: ServerAccess, remote: RemoteSummaries) -> None:
        self._rooms = rooms
        self._access = access
        self._remote = remote

    async def of_room(
        self, room_id: str, user_id: UserID | None, via: Sequence[str], ask: Ask
    ) -> dict[str, Any]:
        """Return a room's summary, or answer M_NOT_FOUND to those who may not know of it.

        Servers in `via` are asked for a room that is not here, after `ask` was called.
        """
        room = await self._rooms.find(room_id)
        if user_id is not None and (room is None or not await self._access.is_here(room)):
            remote = await self._remote.find(room_id, via, ask)
            if remote is None or not await self._remote.may_know_of(remote.entry, user_id):
                raise NotFound("There is no such room, or it is not for you")
            membership = await self._remote.membership(room_id, user_id)
            return {**remote.entry, "membership": membership or "leave"}
        if room is None or not await self.may_know_of(room, user_id):
            raise NotFound("There is no such room, or it is not for you")
        summary = await self.summarize(room)
        if user_id is not None:
            summary["membership"] = await room.membership(user_id) or "leave"
        return summary

    async def may_know_of(self, room: Room, user_id: UserID | None) -> bool:
        """Whether somebody (None: nobody in particular) may be shown what the room is.

        Members and the invited may, and whoever could join, knock or read it without asking.
        """
        membership = None if user_id is None else await room.membership(user_id)
        if membership in ("join", "invite"):
            return True
        if membership == "ban":
            return False
        if await is_world_readable(room):
            return True
        if await join_rule_of(room) == "public" or await is_knockable(room):
            return True
        admitting = await allowed_rooms(room)
        return (
            user_id is not None
            and admitting is not None
            and await is_in_any(self._rooms, admitting, user_id)
        )

    async def summarize(self, room: Room) -> dict[str, Any]:
        """Return the summary of a room that the reader may know of."""
        summary = await describe(room, await room.joined_count())
        summary.setdefault("join_rule", "invite")
        summary["room_version"] = room.version.identifier
        encryption = await room.state_event("m.room.encryption")
        algorithm = None if encryption is None else encryption.pdu.content.get("algorithm")
        if isinstance(algorithm, str):
            summary["encryption"] = algorithm
        admitting = await allowed_rooms(room)
        if admitting is not None:
            summary["allowed_room_ids"] = admitting
        return summary


async def describe(room: Room, joined: int) -> dict[str, Any]:
    """Return the directory's entry of a room."""
    entry: dict[str, Any] = {"room_id": room.room_id, "num_joined_members": joined}
    for kind, field, name in _TEXTS:
        event = await room.state_event(kind)
        value = None if event is None else event.pdu.content.get(field)
        if isinstance(value, str) and value:
            entry[name] = value
    entry["world_readable"] = await is_world_readable(room)
    guests = await room.state_event("m.room.guest_access")
    entry["guest_can_join"] = (
        guests is not None and guests.pdu.content.get("guest_access") == "can_join"
    )
    return entry


async def is_world_readable(room: Room) -> bool:
    """Whether everybody may read the room."""
    event = await room.state_event("m.room.history_visibility")
    return event is not None and event.pdu.content.get("history_visibility") == "world_readable"
