"""Replacing a room by one of another version.

The old room's tombstone and the new room name each other. Where the new room's id can be chosen
beforehand, its create event names the tombstone: that is built first, the new room is made
durable, and only then is the tombstone sent, so that none ever points to nowhere. From version 12
on the id follows from the create event, which then names the old room alone.

Spec: client-server API, "Room Upgrades"; `m.room.create`; room version 12.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from yizhan_database import Database
from yizhan_server.protocol.errors import Forbidden, MatrixError, UnsupportedRoomVersion
from yizhan_server.protocol.identifiers import EventID, RoomID, UserID, parse_user_id
from yizhan_server.protocol.power_levels import creators_of, parse_level
from yizhan_server.protocol.room_version import ROOM_VERSIONS, RoomVersion
from yizhan_server.rooms.access import JoinedRoom
from yizhan_server.rooms.creation import first_power_levels
from yizhan_server.rooms.members import MemberProfiles
from yizhan_server.rooms.power import current_power_levels
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.succession import Succession
from yizhan_server.rooms.writer import Draft, EventWriter
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state

log = logging.getLogger(__name__)

COPIED = (
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.policy",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.related_groups",
    "m.room.retention",
)
"""State with an empty key that the new room begins with."""

STATED: Mapping[str, dict[str, Any]] = {"m.room.guest_access": {"guest_access": "forbidden"}}
"""What holds where the old room says nothing, and the new one says in so many words."""

MAX_BANS = 5000


class RoomUpgrades:
    """Upgrades rooms on behalf of who may close them."""

    def __init__(
        self,
        db: Database,
        writer: EventWriter,
        profiles: MemberProfiles,
        succession: Succession,
    ) -> None:
        self._db = db
        self._writer = writer
        self._profiles = profiles
        self._succession = succession

    async def upgrade(
        self, joined: JoinedRoom, new_version: str, additional_creators: Sequence[str]
    ) -> RoomID:
        """Replace a room and return the id of the new one.

        M_UNSUPPORTED_ROOM_VERSION for a version that is not ours, M_FORBIDDEN for who may not
        send the tombstone.
        """
        old, user_id = joined.room, joined.user_id
        version = ROOM_VERSIONS.get(new_version)
        if version is None:
            raise UnsupportedRoomVersion(f"Room version {new_version!r} is not supported")
        levels = await current_power_levels(old)
        if levels.of_user(user_id) < levels.to_send("m.room.tombstone", is_state=True):
            raise Forbidden("You do not have the power to upgrade this room")
        content = await _creation_content(old, user_id, version, additional_creators)
        drafts = await self._first_events(old, user_id, version, content)
        if version.room_id_is_create_hash:
            create = Draft(user_id, "m.room.create", content, "")
            new = await self._writer.found(version, create, drafts)
            await self._writer.send(old, _tombstone(user_id, new.room_id))
        else:
            new = await self._with_tombstone(old, user_id, version, content, drafts)
        await self._move_names(old, new, user_id)
        await self._close(old, user_id)
        await self._succession.copy_settings(old, new, user_id)
        return new.room_id

    async def _with_tombstone(
        self,
        old: Room,
        user_id: UserID,
        version: RoomVersion,
        content: dict[str, Any],
        drafts: list[Draft],
    ) -> Room:
        """Make a room whose id is chosen first, between building the tombstone and sending it."""
        room_id = self._writer.new_room_id()
        made: list[Room] = []

        async def found(built: Sequence[EventID]) -> None:
            predecessor = {**content["predecessor"], "event_id": built[0]}
            create = Draft(user_id, "m.room.create", {**content, "predecessor": predecessor}, "")
            if not made:
                made.append(await self._writer.found(version, create, drafts, room_id))

        await self._writer.write(old, [_tombstone(user_id, room_id)], before=found)
        return made[0]

    async def _first_events(
        self, old: Room, user_id: UserID, version: RoomVersion, create: dict[str, Any]
    ) -> list[Draft]:
        """Return what follows the create event: first with all power, the old levels last."""
        member = {"membership": "join", **await self._profiles.member_profile(user_id)}
        drafts = [Draft(user_id, "m.room.member", member, user_id)]
        final = await _power_levels(old, user_id, version, create)
        first = first_power_levels(version)
        if not version.privileged_creators:
            first["users"] = {user_id: max(100, *_all_levels(final, version))}
        drafts.append(Draft(user_id, "m.room.power_levels", first, ""))
        for kind in COPIED:
            event = await old.state_event(kind)
            content = STATED.get(kind) if event is None else event.pdu.content
            if content is not None:
                drafts.append(Draft(user_id, kind, content, ""))
        if create.get("type") == "m.space":
            drafts += [
                Draft(user_id, "m.space.child", child.content, child.state_key or "")
                for child in await self._state_of_type(old, "m.space.child")
                if child.content.get("via")
            ]
        banned = await stored_rooms.members(self._db, old.nid, "ban")
        for user in banned[:MAX_BANS]:
            ban = await old.state_event("m.room.member", user)
            if ban is not None:
                drafts.append(Draft(user_id, "m.room.member", ban.pdu.content, user))
        drafts.append(Draft(user_id, "m.room.power_levels", final, ""))
        return drafts

    async def _state_of_type(self, room: Room, kind: str) -> list[stored_events.StoredEvent]:
        nids = await stored_state.current_state_of_type(self._db, room.nid, kind)
        events = await stored_events.events_by_nid(self._db, nids)
        return [event for event in events.values() if not event.flags & stored_events.REDACTED]

    async def _move_names(self, old: Room, new: Room, user_id: UserID) -> None:
        """Let aliases and the directory lead to the new room."""
        await self._succession.move_names(old, new)
        canonical = await old.state_event("m.room.canonical_alias")
        if canonical is None or not canonical.pdu.content:
            return
        for room, content in ((old, {}), (new, canonical.pdu.content)):
            await self._try(room, Draft(user_id, "m.room.canonical_alias", content, ""))

    async def _close(self, old: Room, user_id: UserID) -> None:
        """Let nobody below moderators speak in the old room, or invite to it."""
        event = await old.state_event("m.room.power_levels")
        if event is None:
            return
        content = event.pdu.content
        users_default = parse_level(content.get("users_default"), old.version) or 0
        closed = max(50, users_default + 1)
        changed = dict(content)
        for name in ("events_default", "invite"):
            if (parse_level(content.get(name), old.version) or 0) < closed:
                changed[name] = closed
        await self._try(old, Draft(user_id, "m.room.power_levels", changed, ""))

    async def _try(self, room: Room, draft: Draft) -> None:
        """Send what the upgrade does not depend on."""
        try:
            await self._writer.send(room, draft)
        except MatrixError as error:
            log.info(
                "part of an upgrade was refused",
                extra={"room_id": room.room_id, "type": draft.type, "why": error.errcode},
            )


def _tombstone(user_id: UserID, replacement: RoomID) -> Draft:
    content = {
        "body": "这个房间已被替换。This room has been replaced.",
        "replacement_room": replacement,
    }
    return Draft(user_id, "m.room.tombstone", content, "")


async def _creation_content(
    old: Room, user_id: UserID, version: RoomVersion, additional_creators: Sequence[str]
) -> dict[str, Any]:
    create = await old.state_event("m.room.create")
    assert create is not None, "every room begins with its create event"
    kept = ("type", "m.federate")
    content: dict[str, Any] = {
        **{key: create.pdu.content[key] for key in kept if key in create.pdu.content},
        "room_version": version.identifier,
        "predecessor": {"room_id": old.room_id},
    }
    if version.creator_in_content:
        content["creator"] = user_id
    if version.privileged_creators:
        others = [parse_user_id(user) for user in dict.fromkeys(additional_creators)]
        if others := [user for user in others if user != user_id]:
            content["additional_creators"] = others
    return content


async def _power_levels(
    old: Room, user_id: UserID, version: RoomVersion, create: dict[str, Any]
) -> dict[str, Any]:
    """Return the old room's levels as the new one can have them.

    Creators of a room of version 12 are above all levels and must not be listed; where the new
    room knows no such thing, whoever stood above all levels has the highest of them.
    """
    event = await old.state_event("m.room.power_levels")
    content = first_power_levels(version) if event is None else dict(event.pdu.content)
    if version.integer_power_levels_only:
        content = _as_integers(content, old.version)
    users = dict(content["users"]) if isinstance(content.get("users"), dict) else {}
    if version.privileged_creators:
        for creator in (user_id, *create.get("additional_creators", ())):
            users.pop(creator, None)
    elif old.version.privileged_creators:
        old_create = await old.state_event("m.room.create")
        assert old_create is not None, "every room begins with its create event"
        highest = max(100, *_all_levels(content, version))
        users.update(dict.fromkeys(creators_of(old_create.pdu), highest))
    elif event is None:
        users[user_id] = 100
    content["users"] = users
    return content


def _as_integers(content: dict[str, Any], version: RoomVersion) -> dict[str, Any]:
    """Spell levels as integers that an older version also took as text."""

    def integer(value: object) -> object:
        level = parse_level(value, version)
        return value if level is None else level

    return {
        key: {name: integer(level) for name, level in value.items()}
        if isinstance(value, dict)
        else integer(value)
        for key, value in content.items()
    }


def _all_levels(content: dict[str, Any], version: RoomVersion) -> list[int]:
    """Return every level that the content names; never empty."""
    values: list[object] = [0]
    for value in content.values():
        values.extend(value.values() if isinstance(value, dict) else [value])
    return [level for value in values if (level := parse_level(value, version)) is not None]
