"""Conditions of push rules, compiled to tests of an event.

A condition of an unknown kind, or one that lacks its parameters, never holds.

Spec: client-server API, "Conditions".
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from yizhan_server.protocol.canonical_json import JsonObject, JsonValue
from yizhan_server.protocol.power_levels import PowerLevels
from yizhan_server.protocol.push_rules.defaults import Owner
from yizhan_server.protocol.push_rules.globs import (
    compile_glob,
    compile_word_glob,
    contains_words,
)

Path: TypeAlias = tuple[str, ...]

_ABSENT: Final = object()
_BODY: Final[Path] = ("content", "body")
_MENTIONED: Final[Path] = ("content", "m.mentions", "user_ids")
_SCALARS = (str, int, bool, type(None))
_MEMBER_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,18})", re.ASCII)


class Viewer(NamedTuple):
    """The user whose rules are asked; the display name is the one in the event's room."""

    user_id: str
    display_name: str | None = None


class PushEvent:
    """An event in its room, as push rules see it. Make one per event, for all users."""

    __slots__ = ("_json", "_levels", "_lowered", "member_count", "named_users")

    def __init__(self, event: JsonObject, *, member_count: int, levels: PowerLevels) -> None:
        """Take an event in the form that clients get, and the room just before it.

        `member_count` counts the joined members, after the event if it changes membership.
        """
        self._json = event
        self._levels = levels
        self._lowered: dict[Path, str | None] = {}
        self.member_count = member_count
        self.named_users = self._find_named_users()

    @property
    def sender(self) -> str:
        """The event's sender."""
        sender: str = self._json["sender"]
        return sender

    @property
    def room_id(self) -> str:
        """The event's room."""
        room_id: str = self._json["room_id"]
        return room_id

    def get(self, path: Path) -> JsonValue:
        """Return the property at `path`, or a value equal to nothing else if there is none."""
        value: Any = self._json
        for name in path:
            if not isinstance(value, dict):
                return _ABSENT
            value = value.get(name, _ABSENT)
        return value

    def lowered(self, path: Path) -> str | None:
        """Return the property in lower case if it is a string; computed once per event."""
        try:
            return self._lowered[path]
        except KeyError:
            value = self.get(path)
            lowered = value.lower() if isinstance(value, str) else None
            self._lowered[path] = lowered
            return lowered

    def sender_may_notify(self, key: str) -> bool:
        """Tell whether the sender's level suffices for notifications of this kind."""
        return self._levels.of_user(self.sender) >= self._levels.to_notify(key)

    def _find_named_users(self) -> frozenset[str]:
        mentioned = self.get(_MENTIONED)
        names = (
            [name for name in mentioned if isinstance(name, str)]
            if isinstance(mentioned, list)
            else []
        )
        state_key = self._json.get("state_key")
        if isinstance(state_key, str):
            names.append(state_key)
        return frozenset(names)


Condition: TypeAlias = Callable[[PushEvent, Viewer], bool]


def compile_condition(condition: JsonValue) -> Condition:
    """Return the test that `condition` describes."""
    if not isinstance(condition, dict):
        return _never
    compiler = _COMPILERS.get(str(condition.get("kind")))
    return _never if compiler is None else compiler(condition)


def compile_word(pattern: str) -> Condition:
    """Return the test of a content rule: `pattern` occurs as words in the body."""
    glob = compile_word_glob(pattern)

    def holds(event: PushEvent, viewer: Viewer) -> bool:
        body = event.lowered(_BODY)
        return body is not None and glob(body)

    return holds


def split_path(key: str) -> Path:
    r"""Return the property names of a dot-separated path; `\.` and `\\` are literal.

    Spec: appendices, "Dot-separated property paths".
    """
    if "\\" not in key:
        return tuple(key.split("."))
    names = [""]
    characters = iter(key)
    for character in characters:
        if character == ".":
            names.append("")
        elif character == "\\":
            escaped = next(characters, "")
            names[-1] += escaped if escaped in {".", "\\"} else "\\" + escaped
        else:
            names[-1] += character
    return tuple(names)


def _never(event: PushEvent, viewer: Viewer) -> bool:
    return False


def _event_match(condition: JsonObject) -> Condition:
    key, pattern = condition.get("key"), condition.get("pattern")
    if not isinstance(key, str):
        return _never
    path = split_path(key)
    if pattern is Owner.OWNER:
        return lambda event, viewer: event.get(path) == viewer.user_id
    if not isinstance(pattern, str):
        return _never
    if path == _BODY:
        return compile_word(pattern)
    glob = compile_glob(pattern)

    def holds(event: PushEvent, viewer: Viewer) -> bool:
        value = event.lowered(path)
        return value is not None and glob(value)

    return holds


def _event_property_is(condition: JsonObject) -> Condition:
    key, expected = condition.get("key"), condition.get("value", _ABSENT)
    if not isinstance(key, str) or not isinstance(expected, _SCALARS):
        return _never
    path = split_path(key)
    return lambda event, viewer: _is_same(event.get(path), expected)


def _event_property_contains(condition: JsonObject) -> Condition:
    key, expected = condition.get("key"), condition.get("value", _ABSENT)
    if not isinstance(key, str) or not isinstance(expected, (*_SCALARS, Owner)):
        return _never
    path = split_path(key)

    def holds(event: PushEvent, viewer: Viewer) -> bool:
        values = event.get(path)
        sought = viewer.user_id if expected is Owner.OWNER else expected
        return isinstance(values, list) and any(_is_same(value, sought) for value in values)

    return holds


def _contains_display_name(condition: JsonObject) -> Condition:
    def holds(event: PushEvent, viewer: Viewer) -> bool:
        body = event.lowered(_BODY)
        # A name is not a pattern: were it one, somebody named * would be notified of everything.
        return (
            body is not None
            and bool(viewer.display_name)
            and contains_words(body, viewer.display_name or "")
        )

    return holds


def _room_member_count(condition: JsonObject) -> Condition:
    match = _MEMBER_COUNT.fullmatch(str(condition.get("is")))
    if match is None:
        return _never
    limit = int(match[2])
    match match[1]:
        case "<":
            return lambda event, viewer: event.member_count < limit
        case ">":
            return lambda event, viewer: event.member_count > limit
        case "<=":
            return lambda event, viewer: event.member_count <= limit
        case ">=":
            return lambda event, viewer: event.member_count >= limit
        case _:
            return lambda event, viewer: event.member_count == limit


def _sender_notification_permission(condition: JsonObject) -> Condition:
    key = condition.get("key")
    if not isinstance(key, str):
        return _never
    return lambda event, viewer: event.sender_may_notify(key)


def _is_same(value: JsonValue, expected: JsonValue) -> bool:
    # In Python true equals 1; in JSON it does not.
    return type(value) is type(expected) and bool(value == expected)


_COMPILERS: Final[dict[str, Callable[[JsonObject], Condition]]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "contains_display_name": _contains_display_name,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
}
KNOWN_CONDITIONS: Final = frozenset(_COMPILERS)
