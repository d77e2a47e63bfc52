"""Applying push rules to events.

Spec: client-server API, "Push Rules" (order of kinds, actions, server-default rules).
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from yizhan_server.protocol.canonical_json import JsonObject, JsonValue, encode_canonical
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.push_rules.conditions import (
    Condition,
    PushEvent,
    Viewer,
    compile_condition,
    compile_word,
)
from yizhan_server.protocol.push_rules.defaults import DEFAULT_CONDITIONS, MASTER

_NOBODY = Viewer("")
# `dont_notify` and `coalesce` of old rules mean nothing.
_NOTIFY = "notify"


@dataclass(frozen=True, slots=True)
class PushActions:
    """What the rule that matched asks for. Compares by value; shared, not to be changed."""

    notify: bool
    tweaks: JsonObject

    @property
    def highlight(self) -> bool:
        """Tell whether the event is to be highlighted (and so counts as a highlight)."""
        return self.tweaks.get("highlight") is True

    def to_json(self) -> list[Any]:
        """Return the actions as a rule spells them, for GET /notifications."""
        actions: list[Any] = [_NOTIFY] if self.notify else []
        actions += [{"set_tweak": name, "value": value} for name, value in self.tweaks.items()]
        return actions


class _Rule(NamedTuple):
    conditions: tuple[Condition, ...]
    actions: PushActions


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """One account's rules, ready to be applied; equal for accounts whose rules mean the same."""

    _key: bytes = field(repr=False)
    _rules: tuple[_Rule, ...] = field(compare=False, repr=False)
    _by_room: dict[str, PushActions] = field(compare=False, repr=False)
    _by_sender: dict[str, PushActions] = field(compare=False, repr=False)
    _underride: tuple[_Rule, ...] = field(compare=False, repr=False)
    uses_names: bool = field(compare=False)  # some rule looks for the viewer's display name

    def find(self, event: PushEvent, viewer: Viewer) -> PushActions | None:
        """Return the actions of the first rule that matches, None if none does."""
        return (
            _first(self._rules, event, viewer)
            or self._by_room.get(event.room_id)
            or self._by_sender.get(event.sender)
            or _first(self._underride, event, viewer)
        )


def compile_rules(ruleset: JsonObject) -> CompiledRules:
    """Return a ruleset (the `global` one, by kind) ready for evaluation.

    Never raises for what stands in the ruleset: a rule that makes no sense matches nothing.
    """
    override = _enabled(ruleset, "override")
    override.sort(key=lambda rule: rule.get("rule_id") != MASTER)  # stable: only moves it first
    content = [
        rule for rule in _enabled(ruleset, "content") if isinstance(rule.get("pattern"), str)
    ]
    by_room = _actions_by_id(_enabled(ruleset, "room"))
    by_sender = _actions_by_id(_enabled(ruleset, "sender"))
    underride = _enabled(ruleset, "underride")
    key = encode_canonical(
        [
            [_essence(rule) for rule in override],
            [[rule["pattern"], rule.get("actions")] for rule in content],
            {name: actions.to_json() for name, actions in by_room.items()},
            {name: actions.to_json() for name, actions in by_sender.items()},
            [_essence(rule) for rule in underride],
        ]
    )
    return CompiledRules(
        key,
        (
            *map(_compile, override),
            *(
                _Rule((compile_word(rule["pattern"]),), _parse_actions(rule.get("actions")))
                for rule in content
            ),
        ),
        by_room,
        by_sender,
        tuple(map(_compile, underride)),
        any(
            isinstance(condition, dict) and condition.get("kind") == "contains_display_name"
            for rule in (*override, *underride)
            for condition in _conditions(rule)
        ),
    )


def evaluate(rules: CompiledRules, event: PushEvent, viewer: Viewer) -> PushActions | None:
    """Return what `event` does to a user with these rules; None if no rule matches it.

    One's own events match nothing.
    """
    return None if event.sender == viewer.user_id else rules.find(event, viewer)


def evaluate_group(
    rules: CompiledRules,
    event: PushEvent,
    users: AbstractSet[UserID],
    display_name: Callable[[UserID], str | None],
) -> tuple[PushActions | None, dict[UserID, PushActions | None]]:
    """Return the result for most of `users`, who all have these rules, and those who differ.

    `display_name` is asked for a user's name in the event's room, and only where it matters.
    """
    common = rules.find(event, _NOBODY)
    special: Iterable[UserID]
    if rules.uses_names:
        special = users
    else:
        special = [UserID(name) for name in (event.sender, *event.named_users) if name in users]
    exceptions = {}
    for user_id in special:
        name = display_name(user_id) if rules.uses_names else None
        actions = evaluate(rules, event, Viewer(user_id, name))
        if actions != common:
            exceptions[user_id] = actions
    return common, exceptions


def _first(rules: tuple[_Rule, ...], event: PushEvent, viewer: Viewer) -> PushActions | None:
    for conditions, actions in rules:
        for holds in conditions:
            if not holds(event, viewer):
                break
        else:
            return actions
    return None


def _enabled(ruleset: JsonObject, kind: str) -> list[JsonObject]:
    rules = ruleset.get(kind)
    if not isinstance(rules, list):
        return []
    return [rule for rule in rules if isinstance(rule, dict) and rule.get("enabled", True) is True]


def _essence(rule: JsonObject) -> JsonValue:
    """Return what makes the rule's effect, the owner left out of default rules."""
    known = rule.get("rule_id") in DEFAULT_CONDITIONS
    return [rule["rule_id"] if known else _conditions(rule), rule.get("actions")]


def _conditions(rule: JsonObject) -> list[JsonValue]:
    # Ours, not the stored ones: a stored default rule names its owner, and may be of last year.
    own = DEFAULT_CONDITIONS.get(str(rule.get("rule_id")))
    if own is not None:
        return own
    conditions = rule.get("conditions", [])
    return conditions if isinstance(conditions, list) else [None]  # None never holds


def _compile(rule: JsonObject) -> _Rule:
    conditions = tuple(compile_condition(condition) for condition in _conditions(rule))
    return _Rule(conditions, _parse_actions(rule.get("actions")))


def _actions_by_id(rules: list[JsonObject]) -> dict[str, PushActions]:
    by_id: dict[str, PushActions] = {}
    for rule in rules:
        by_id.setdefault(str(rule.get("rule_id")), _parse_actions(rule.get("actions")))
    return by_id


def _parse_actions(actions: JsonValue) -> PushActions:
    notify = False
    tweaks: JsonObject = {}
    for action in actions if isinstance(actions, list) else ():
        if action == _NOTIFY:
            notify = True
        elif isinstance(action, dict) and isinstance(action.get("set_tweak"), str):
            name = action["set_tweak"]
            # A highlight without a value means true; other tweaks need theirs.
            value = action.get("value", True if name == "highlight" else None)
            if value is not None:
                tweaks[name] = value
    return PushActions(notify, tweaks)
