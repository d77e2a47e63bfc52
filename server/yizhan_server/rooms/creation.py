"""Making rooms: presets, initial state and first invitations, all in one commit.

Spec: client-server API, "Creation" (POST /createRoom).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yizhan_server.protocol.errors import BadJson, InvalidParam, UnsupportedRoomVersion
from yizhan_server.protocol.identifiers import RoomAlias, UserID, parse_user_id
from yizhan_server.protocol.room_version import ROOM_VERSIONS, RoomVersion
from yizhan_server.rooms.aliases import Aliases
from yizhan_server.rooms.members import MemberProfiles, Members
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.writer import Draft, EventWriter

MEGOLM = "m.megolm.v1.aes-sha2"

LEVELS = frozenset(
    (
        "users", "users_default", "events", "events_default", "state_default", "notifications",
        "ban", "kick", "redact", "invite",
    )
)  # fmt: skip
"""Keys of `m.room.power_levels` that hold a level, or a map of them."""


@dataclass(frozen=True, slots=True)
class Preset:
    """The state that a preset stands for."""

    join_rule: str
    history_visibility: str
    guest_access: str
    invitees_get_creator_power: bool = False


PRESETS = {
    "private_chat": Preset("invite", "shared", "can_join"),
    "trusted_private_chat": Preset("invite", "shared", "can_join", invitees_get_creator_power=True),
    "public_chat": Preset("public", "shared", "forbidden"),
}


@dataclass(slots=True)
class NewRoom:
    """What somebody asked for."""

    preset: str
    public: bool = False
    """Listed in the room directory."""
    version: str | None = None
    creation_content: dict[str, Any] = field(default_factory=dict)
    power_levels: dict[str, Any] = field(default_factory=dict)
    initial_state: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    name: str | None = None
    topic: str | None = None
    alias_localpart: str | None = None
    invite: list[UserID] = field(default_factory=list)
    is_direct: bool = False
    appservice: str | None = None
    """The application service that asks, if one does."""
    may_encrypt: bool = True
    """Whether the server's default may make the room encrypted."""


class RoomCreation:
    """Makes rooms for users of this server."""

    def __init__(
        self,
        writer: EventWriter,
        members: Members,
        profiles: MemberProfiles,
        aliases: Aliases,
        default_version: str,
        encrypt_by_default: str,
    ) -> None:
        self._writer = writer
        self._members = members
        self._profiles = profiles
        self._aliases = aliases
        self._default_version = default_version
        self._encrypt_by_default = encrypt_by_default
        """`private`, `all` or `off`: rooms that are encrypted though nobody asked."""

    async def create(self, creator: UserID, wish: NewRoom) -> Room:
        """Make the room; everything in it is durable when this returns."""
        version = ROOM_VERSIONS.get(wish.version or self._default_version)
        if version is None:
            raise UnsupportedRoomVersion(f"Room version {wish.version!r} is not supported")
        preset = PRESETS.get(wish.preset)
        if preset is None:
            raise InvalidParam(f"The preset must be one of {', '.join(PRESETS)}")
        alias = None
        if wish.alias_localpart is not None:
            alias = await self._aliases.check_new(wish.alias_localpart, service=wish.appservice)
        for kind, state_key, content in wish.initial_state:
            if kind == "m.room.member" and content.get("membership") == "invite":
                await self._check_invitation(parse_user_id(state_key))
        drafts = [Draft(creator, "m.room.member", await self._creator_member(creator), creator)]
        drafts.append(
            Draft(creator, "m.room.power_levels", _power_levels(creator, wish, preset, version), "")
        )
        for kind, state_key, content in self._initial_state(wish, preset, alias):
            drafts.append(Draft(creator, kind, content, state_key))
        elsewhere = []
        for target in dict.fromkeys(wish.invite):
            content = await self._members.invite_content(
                target, reason=None, is_direct=wish.is_direct
            )
            if self._members.is_ours(target):
                drafts.append(Draft(creator, "m.room.member", content, target))
            else:
                elsewhere.append(target)
        create = Draft(
            creator, "m.room.create", _creation_content(creator, wish, preset, version), ""
        )
        room = await self._writer.found(version, create, drafts)
        if alias is not None:
            await self._aliases.add(alias, room, creator, service=wish.appservice)
        if wish.public:
            await self._aliases.publish(room)
        for target in elsewhere:
            # Their servers have to agree, and are shown a room that exists.
            await self._members.invite(room, creator, target, is_direct=wish.is_direct)
        return room

    async def _check_invitation(self, target: UserID) -> None:
        """Answer why somebody cannot be invited by a member event of the client's own."""
        await self._members.check_invitable(target)
        if not self._members.is_ours(target):
            raise InvalidParam("Users of other servers are invited by 'invite'")

    async def _creator_member(self, creator: UserID) -> dict[str, Any]:
        return {"membership": "join", **await self._profiles.member_profile(creator)}

    def _initial_state(
        self, wish: NewRoom, preset: Preset, alias: RoomAlias | None
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """Return the state after the power levels; what was asked for replaces the preset's."""
        state: dict[tuple[str, str], dict[str, Any]] = {}
        if alias is not None:
            state["m.room.canonical_alias", ""] = {"alias": alias}
        state["m.room.join_rules", ""] = {"join_rule": preset.join_rule}
        state["m.room.history_visibility", ""] = {"history_visibility": preset.history_visibility}
        if preset.guest_access == "can_join":
            state["m.room.guest_access", ""] = {"guest_access": "can_join"}
        if wish.may_encrypt and self._encrypts(preset):
            state["m.room.encryption", ""] = {"algorithm": MEGOLM}
        for kind, state_key, content in wish.initial_state:
            state[kind, state_key] = content
        if wish.name is not None:
            state["m.room.name", ""] = {"name": wish.name}
        if wish.topic is not None:
            state["m.room.topic", ""] = {
                "topic": wish.topic,
                "m.topic": {"m.text": [{"body": wish.topic}]},
            }
        return [(kind, state_key, content) for (kind, state_key), content in state.items()]

    def _encrypts(self, preset: Preset) -> bool:
        if self._encrypt_by_default == "private":
            return preset.join_rule != "public"
        return self._encrypt_by_default == "all"


def _creation_content(
    creator: UserID, wish: NewRoom, preset: Preset, version: RoomVersion
) -> dict[str, Any]:
    content = {**wish.creation_content, "room_version": version.identifier}
    content.pop("creator", None)
    if not isinstance(content.get("m.federate", True), bool):
        raise BadJson("creation_content.m.federate must be true or false")
    if version.creator_in_content:
        content["creator"] = creator
    if version.privileged_creators:
        additional = content.get("additional_creators", [])
        if not isinstance(additional, list) or not all(isinstance(u, str) for u in additional):
            raise BadJson("creation_content.additional_creators must be a list of user ids")
        if preset.invitees_get_creator_power:
            additional = [*additional, *wish.invite]
        if additional:
            content["additional_creators"] = [
                user for user in dict.fromkeys(additional) if user != creator
            ]
    return content


def _power_levels(
    creator: UserID, wish: NewRoom, preset: Preset, version: RoomVersion
) -> dict[str, Any]:
    """Return the first power levels: the preset's, with the keys that were asked for replaced."""
    users: dict[str, int] = {}
    if not version.privileged_creators:
        users[creator] = 100
        if preset.invitees_get_creator_power:
            users.update(dict.fromkeys(wish.invite, 100))
    levels = first_power_levels(version)
    levels["users"] = users
    return {**levels, **_checked(wish.power_levels, version)}


def first_power_levels(version: RoomVersion) -> dict[str, Any]:
    """Return the power levels that a room of this version begins with, without users."""
    return {
        "users": {},
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.encryption": 100,
            "m.room.server_acl": 100,
            # Replacing a room is beyond moderators; where creators stand above all levels, it
            # is theirs alone.
            "m.room.tombstone": 150 if version.privileged_creators else 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
    }


def _checked(levels: Mapping[str, Any], version: RoomVersion) -> Mapping[str, Any]:
    for key in ("users", "events", "notifications"):
        if key in levels and not isinstance(levels[key], dict):
            raise BadJson(f"power_level_content_override.{key} must be an object")
    if version.integer_power_levels_only:
        for key, level in levels.items():
            of_each = level.values() if isinstance(level, dict) else [level]
            if key in LEVELS and not all(type(each) is int for each in of_each):
                raise BadJson(f"power_level_content_override.{key} must be of integers")
    return levels
