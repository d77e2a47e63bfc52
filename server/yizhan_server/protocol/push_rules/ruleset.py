"""Editing an account's push rules, as the API asks for it.

A ruleset is the JSON of `GET /pushrules/global/`: lists of rules by kind, most important first. All
functions return a new ruleset and leave the old one as it was.

Spec: client-server API, "Push Rules: API".
"""

import re
from typing import Any, Final

from yizhan_server.protocol.canonical_json import JsonObject, JsonValue
from yizhan_server.protocol.errors import InvalidParam, MatrixError, MissingParam, NotFound
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.push_rules.conditions import KNOWN_CONDITIONS
from yizhan_server.protocol.push_rules.defaults import MASTER, default_ruleset

KINDS: Final = ("override", "content", "room", "sender", "underride")

# Each message of a room is held against the rules of every local member.
MAX_USER_RULES: Final = 1000
MAX_CONDITIONS: Final = 32
MAX_PATTERN_CHARACTERS: Final = 512
MAX_RULE_ID_BYTES: Final = 255
MAX_EFFORT: Final = 8192
"""Of all of a user's rules, see `_effort`: a message may be long, and one account must not make it
cost everybody seconds. Some 200 words of ten characters."""

# They do nothing, and are kept: older clients look for what they have set.
_HISTORICAL_ACTIONS = ("dont_notify", "coalesce")
_MEMBER_COUNT = re.compile(r"(==|<=|>=|<|>)?[0-9]{1,18}", re.ASCII)


def check_kind(kind: str) -> str:
    """Return `kind` if rules of it exist. Raises InvalidParam."""
    if kind not in KINDS:
        raise InvalidParam(f"There are no push rules of the kind {kind[:32]!r}.")
    return kind


def find_rule(ruleset: JsonObject, kind: str, rule_id: str) -> JsonObject | None:
    """Return the rule, None if there is none."""
    for rule in ruleset.get(kind, []):
        if rule["rule_id"] == rule_id:
            found: JsonObject = rule
            return found
    return None


def put_rule(
    ruleset: JsonObject,
    kind: str,
    rule_id: str,
    body: JsonValue,
    *,
    before: str | None = None,
    after: str | None = None,
) -> JsonObject:
    """Add a rule of the user's, or change and perhaps move it.

    `before` makes it the next more important one than the rule it names, `after` the next less
    important; if both are given, `before` decides. A new rule is enabled, and without either the
    most important one. Raises MissingParam, InvalidParam, or M_UNKNOWN for a neighbour that is not
    a rule of the user's.
    """
    check_kind(kind)
    _check_rule_id(rule_id)
    rule: JsonObject = {
        "rule_id": rule_id,
        "default": False,
        "enabled": True,
        **_check_body(kind, body),
    }
    rules = list(ruleset.get(kind, []))
    existing = find_rule(ruleset, kind, rule_id)
    others = [other for each in KINDS for other in ruleset.get(each, []) if other is not existing]
    effort = _effort(rule)
    if effort and effort + sum(map(_effort, others)) > MAX_EFFORT:
        raise InvalidParam("An account's push rules may not look for so much in each message.")
    if existing is not None:
        rule["enabled"] = existing["enabled"]
        if before is None and after is None:
            rules[rules.index(existing)] = rule
            return {**ruleset, kind: rules}
        rules.remove(existing)
    elif _count_user_rules(ruleset) >= MAX_USER_RULES:
        raise InvalidParam(f"An account has at most {MAX_USER_RULES} push rules.")
    if before is not None:
        rules.insert(_position_of(rules, before), rule)
    elif after is not None:
        rules.insert(_position_of(rules, after) + 1, rule)
    else:
        has_master = bool(rules) and rules[0]["rule_id"] == MASTER
        rules.insert(1 if has_master else 0, rule)
    return {**ruleset, kind: rules}


def delete_rule(ruleset: JsonObject, kind: str, rule_id: str) -> JsonObject:
    """Remove a rule of the user's. Raises NotFound, or InvalidParam for a default rule."""
    rule = _get_rule(ruleset, kind, rule_id)
    if rule["default"]:
        raise InvalidParam("Server-default push rules cannot be deleted, only disabled.")
    return {**ruleset, kind: [other for other in ruleset[kind] if other is not rule]}


def set_enabled(ruleset: JsonObject, kind: str, rule_id: str, *, enabled: JsonValue) -> JsonObject:
    """Enable or disable a rule. Raises NotFound or InvalidParam."""
    if not isinstance(enabled, bool):
        raise InvalidParam("enabled is true or false.")
    return _replace(ruleset, kind, rule_id, "enabled", enabled)


def set_actions(ruleset: JsonObject, kind: str, rule_id: str, actions: JsonValue) -> JsonObject:
    """Change the actions of a rule, default rules included. Raises NotFound or InvalidParam."""
    return _replace(ruleset, kind, rule_id, "actions", _check_actions(actions))


def with_current_defaults(ruleset: JsonObject, user_id: UserID) -> JsonObject:
    """Return a stored ruleset with the default rules of today.

    The user's own rules stay, and so does what the user changed of default rules: whether they
    are enabled, and their actions.
    """
    current: JsonObject = {}
    for kind, defaults in default_ruleset(user_id).items():
        stored = {rule["rule_id"]: rule for rule in ruleset.get(kind, []) if rule["default"]}
        own = [rule for rule in ruleset.get(kind, []) if not rule["default"]]
        for rule in defaults:
            if rule["rule_id"] in stored:
                rule["enabled"] = stored[rule["rule_id"]]["enabled"]
                rule["actions"] = stored[rule["rule_id"]]["actions"]
        master = [rule for rule in defaults if rule["rule_id"] == MASTER]
        current[kind] = [*master, *own, *(rule for rule in defaults if rule not in master)]
    return current


def _get_rule(ruleset: JsonObject, kind: str, rule_id: str) -> JsonObject:
    rule = find_rule(ruleset, check_kind(kind), rule_id)
    if rule is None:
        raise NotFound("The push rule was not found.")
    return rule


def _replace(
    ruleset: JsonObject, kind: str, rule_id: str, name: str, value: JsonValue
) -> JsonObject:
    rule = _get_rule(ruleset, kind, rule_id)
    changed = {**rule, name: value}
    return {**ruleset, kind: [changed if other is rule else other for other in ruleset[kind]]}


def _position_of(rules: list[JsonObject], rule_id: str) -> int:
    for position, rule in enumerate(rules):
        if rule["rule_id"] == rule_id and not rule["default"]:
            return position
    raise MatrixError(400, "M_UNKNOWN", f"before/after rule not found: {rule_id[:255]}")


def _count_user_rules(ruleset: JsonObject) -> int:
    return sum(not rule["default"] for kind in KINDS for rule in ruleset.get(kind, []))


def _effort(rule: JsonObject) -> int:
    """Return what it costs to hold a rule against a long message, in no particular unit."""
    if rule["default"]:
        return 0
    patterns = [rule["pattern"]] if "pattern" in rule else []
    for condition in rule.get("conditions", []):
        kind, key = condition["kind"], condition.get("key")
        is_of_content = isinstance(key, str) and key.startswith("content")
        if kind == "event_match" and is_of_content:
            patterns.append(condition["pattern"])
        elif kind in ("contains_display_name", "event_property_contains"):
            patterns.append("")
    return sum(32 + len(pattern) for pattern in patterns)


def _check_rule_id(rule_id: str) -> None:
    if rule_id.startswith("."):
        raise InvalidParam("Rule IDs that start with a dot are the server's.")
    if not rule_id or "/" in rule_id or "\\" in rule_id:
        raise InvalidParam("A rule ID is not empty and holds neither / nor \\.")
    if len(rule_id.encode()) > MAX_RULE_ID_BYTES:
        raise InvalidParam(f"A rule ID is not longer than {MAX_RULE_ID_BYTES} bytes.")


def _check_body(kind: str, body: JsonValue) -> JsonObject:
    if not isinstance(body, dict):
        raise InvalidParam("A push rule is a JSON object.")
    if "actions" not in body:
        raise MissingParam("A push rule has actions.")
    checked: JsonObject = {"actions": _check_actions(body["actions"])}
    if kind in {"override", "underride"}:
        checked["conditions"] = _check_conditions(body.get("conditions", []))
    elif kind == "content":
        if "pattern" not in body:
            raise MissingParam("A content rule has a pattern.")
        checked["pattern"] = _check_pattern(body["pattern"])
    return checked


def _check_actions(actions: JsonValue) -> list[Any]:
    if not isinstance(actions, list):
        raise InvalidParam("actions is a list.")
    checked: list[Any] = []
    for action in actions:
        is_tweak = isinstance(action, dict) and isinstance(action.get("set_tweak"), str)
        if not is_tweak and action != "notify" and action not in _HISTORICAL_ACTIONS:
            raise InvalidParam("An action is notify, or an object with set_tweak.")
        checked.append(action)
    return checked


def _check_conditions(conditions: JsonValue) -> list[JsonObject]:
    if not isinstance(conditions, list) or len(conditions) > MAX_CONDITIONS:
        raise InvalidParam(f"conditions is a list of at most {MAX_CONDITIONS} conditions.")
    for condition in conditions:
        if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
            raise InvalidParam("A condition is an object with a kind.")
        # Unknown kinds are kept: they never match here, yet another client may know them.
        if condition["kind"] in KNOWN_CONDITIONS:
            _check_parameters(condition)
    return conditions


def _check_parameters(condition: JsonObject) -> None:
    kind = condition["kind"]
    if kind == "room_member_count":
        wanted = condition.get("is")
        if not isinstance(wanted, str) or _MEMBER_COUNT.fullmatch(wanted) is None:
            raise InvalidParam("is: a number, perhaps after ==, <, >, <= or >=.")
    elif kind != "contains_display_name" and not isinstance(condition.get("key"), str):
        raise InvalidParam(f"{kind} needs a key.")
    if kind == "event_match":
        _check_pattern(condition.get("pattern"))
    if kind in {"event_property_is", "event_property_contains"}:
        value = condition.get("value", [])
        if not isinstance(value, str | int | bool | None):
            raise InvalidParam(f"{kind} needs a value: a string, integer, boolean or null.")


def _check_pattern(pattern: JsonValue) -> str:
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_CHARACTERS:
        raise InvalidParam(f"A pattern is a string of at most {MAX_PATTERN_CHARACTERS} characters.")
    return pattern
