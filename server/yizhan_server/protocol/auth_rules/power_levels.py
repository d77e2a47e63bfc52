"""Authorisation of `m.room.power_levels`: nobody gives or takes more than they have.

Spec: rule 9 of room versions 6 to 11, 10 of the others.
"""

from collections.abc import Iterable

from yizhan_server.protocol.auth_rules.room_state import RoomState
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import is_user_id
from yizhan_server.protocol.power_levels import LEVEL_DEFAULTS, creators_of, parse_level
from yizhan_server.protocol.room_version import RoomVersion


def check_power_levels(event: Pdu, state: RoomState) -> None:
    """Reject malformed levels, and changes beyond the sender's own level."""
    version = state.version
    new = event.content
    if version.integer_power_levels_only:
        _check_integers(new)
    _check_users(new, version)
    if version.privileged_creators and state.create is not None:
        _check_creators_not_listed(new, creators_of(state.create))
    if state.power_levels is None:
        return
    old = state.power_levels.content
    changes = _Changes(event.sender, state.levels.of_user(event.sender), version)
    changes.check(old, new, LEVEL_DEFAULTS)
    for name in ("events", "notifications") if version.checks_notification_levels else ("events",):
        old_table, new_table = _table(old, name), _table(new, name)
        changes.check(old_table, new_table, old_table | new_table)
    changes.check_users(_table(old, "users"), _table(new, "users"))


def _check_integers(content: JsonObject) -> None:
    for name in LEVEL_DEFAULTS:
        if name in content and type(content[name]) is not int:
            raise AuthRuleRejection("power_levels.not_integer", f"{name} is not an integer")
    for table in ("events", "notifications"):
        if table in content:
            levels = content[table]
            if not isinstance(levels, dict) or any(type(v) is not int for v in levels.values()):
                raise AuthRuleRejection("power_levels.not_integer", f"{table} holds no integers")


def _check_users(content: JsonObject, version: RoomVersion) -> None:
    users = content.get("users", {})
    if not isinstance(users, dict):
        raise AuthRuleRejection("power_levels.users", "users is not an object")
    for user_id, level in users.items():
        if not is_user_id(user_id):
            raise AuthRuleRejection("power_levels.users", "a key of users is not a user ID")
        if parse_level(level, version) is None:
            raise AuthRuleRejection("power_levels.users", "a level in users is not an integer")


def _check_creators_not_listed(content: JsonObject, creators: Iterable[str]) -> None:
    users = content.get("users", {})
    for creator in creators:
        if creator in users:
            raise AuthRuleRejection("power_levels.creator_listed", "creators have no entry")


class _Changes:
    """Compares old and new levels on behalf of one sender."""

    def __init__(self, sender: str, level: int, version: RoomVersion) -> None:
        self._sender = sender
        self._level = level
        self._version = version

    def check(self, old: JsonObject, new: JsonObject, keys: Iterable[str]) -> None:
        """Reject an altered level that is, or would be, above the sender's."""
        for key in keys:
            before = parse_level(old.get(key), self._version)
            after = parse_level(new.get(key), self._version)
            if after is None and key in new:
                # Only versions up to 9 get here. What nobody can read nobody can compare.
                raise AuthRuleRejection("power_levels.not_integer", f"{key} is not a level")
            if before == after:
                continue
            if before is not None and before > self._level:
                raise AuthRuleRejection("power_levels.above_sender", f"{key} is above the sender")
            self._check_grant(key, after)

    def check_users(self, old: JsonObject, new: JsonObject) -> None:
        """Reject a demotion of an equal or higher user, and a grant above the sender's level."""
        for user_id in old | new:
            before = parse_level(old.get(user_id), self._version)
            after = parse_level(new.get(user_id), self._version)
            if before == after:
                continue
            # >= on purpose: were it >, two administrators in a quarrel could each demote the
            # other. One's own entry is exempt, so that one can step down.
            if before is not None and before >= self._level and user_id != self._sender:
                raise AuthRuleRejection("power_levels.not_above_target", f"level of {user_id}")
            self._check_grant(user_id, after)

    def _check_grant(self, key: str, after: int | None) -> None:
        if after is not None and after > self._level:
            raise AuthRuleRejection("power_levels.grants_too_much", f"{key} would be above")


def _table(content: JsonObject, name: str) -> JsonObject:
    table = content.get(name)
    return table if isinstance(table, dict) else {}
