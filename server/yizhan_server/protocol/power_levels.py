"""What the power levels of a room mean: who has which level, what needs which.

Levels are read leniently where old rooms need it (strings, floats); what may be *written* is an
authorisation rule. A level that cannot be read counts as absent.

Spec: `m.room.power_levels`; room versions 1 ("accept values as strings", "as floats") and 12
(creators).
"""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Final

from yizhan_server.protocol.canonical_json import MAX_INTEGER, JsonObject
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.room_version import RoomVersion

# "Infinitely high": above everything that canonical JSON can spell, and yet an int, so that
# levels compare and sort without a special case.
CREATOR_LEVEL: Final = MAX_INTEGER + 1

# The level properties that an m.room.power_levels event may hold, with their defaults.
LEVEL_DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
NOTIFICATION_DEFAULT: Final = 50
_LEVEL_OF_CREATOR_WITHOUT_POWER_LEVELS = 100

_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,400}\s*")


class PowerLevels:
    """The levels of one room state."""

    __slots__ = ("_content", "_creators", "_lone_creator", "_version")

    def __init__(self, create: Pdu | None, power_levels: Pdu | None, version: RoomVersion) -> None:
        self._version = version
        self._content: JsonObject = power_levels.content if power_levels is not None else {}
        self._creators: frozenset[str] = frozenset()
        self._lone_creator: object = None
        if create is not None:
            if version.privileged_creators:
                self._creators = creators_of(create)
            elif power_levels is None:
                self._lone_creator = creator_of(create, version)

    def of_user(self, user_id: str) -> int:
        """Return the user's level; CREATOR_LEVEL for creators where they are privileged."""
        if user_id in self._creators:
            return CREATOR_LEVEL
        if user_id == self._lone_creator:
            return _LEVEL_OF_CREATOR_WITHOUT_POWER_LEVELS
        users = self._content.get("users")
        if isinstance(users, dict) and user_id in users:
            level = parse_level(users[user_id], self._version)
            if level is not None:
                return level
        return self._named("users_default")

    def to_send(self, event_type: str, *, is_state: bool) -> int:
        """Return the level required to send an event of this type."""
        events = self._content.get("events")
        if isinstance(events, dict) and event_type in events:
            level = parse_level(events[event_type], self._version)
            if level is not None:
                return level
        return self._named("state_default" if is_state else "events_default")

    def to_notify(self, key: str) -> int:
        """Return the level required for notifications of this kind, such as `room`."""
        notifications = self._content.get("notifications")
        if isinstance(notifications, dict) and key in notifications:
            level = parse_level(notifications[key], self._version)
            if level is not None:
                return level
        return NOTIFICATION_DEFAULT

    @property
    def ban(self) -> int:
        """The level required to ban."""
        return self._named("ban")

    @property
    def kick(self) -> int:
        """The level required to kick."""
        return self._named("kick")

    @property
    def invite(self) -> int:
        """The level required to invite."""
        return self._named("invite")

    @property
    def redact(self) -> int:
        """The level required to redact other people's events."""
        return self._named("redact")

    def _named(self, name: str) -> int:
        level = parse_level(self._content.get(name), self._version)
        return LEVEL_DEFAULTS[name] if level is None else level


def read_power_levels(state: Mapping[tuple[str, str], Pdu], version: RoomVersion) -> PowerLevels:
    """Return the levels of a room state that holds at least create and power levels, if any."""
    return PowerLevels(
        state.get(("m.room.create", "")), state.get(("m.room.power_levels", "")), version
    )


def parse_level(value: object, version: RoomVersion) -> int | None:
    """Return `value` as a level of this room version, or None if it is not one."""
    if type(value) is int:
        return value
    if version.integer_power_levels_only:
        return None
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) is not None else None
    if isinstance(value, float) and version.float_power_levels and isfinite(value):
        return int(value)
    return None


def creator_of(create: Pdu, version: RoomVersion) -> object:
    """Return who created the room: `content.creator` (any JSON) up to version 10, else the sender.

    Versions with privileged creators may have more of them: `creators_of`.
    """
    return create.content.get("creator") if version.creator_in_content else create.sender


def creators_of(create: Pdu) -> frozenset[UserID]:
    """Return the room creators, where they are privileged: the sender and the additional ones."""
    additional = create.content.get("additional_creators")
    others = additional if isinstance(additional, list) else []
    return frozenset(
        (create.sender, *(UserID(user_id) for user_id in others if isinstance(user_id, str)))
    )
