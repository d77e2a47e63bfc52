"""Which state of a room a client wants, and which it has been given.

A rule names events by type and state key, either of them perhaps any, and what it leaves out.
Sets of rules can be united and subtracted, so that the same type tells what a client wants and
what it is up to date with. Pure.

Spec: MSC4186, "RequiredStateRequest".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

ANY = "*"
MEMBER = "m.room.member"

Pattern = tuple[str, str]
"""(type, state key), either may be ANY"""

Matcher = Callable[[str, str], bool]
"""Whether the state event of this (type, state key) is named by some rule."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Names state events."""

    type: str
    state_key: str
    excluded: frozenset[Pattern] = frozenset()

    @property
    def names_all_members(self) -> bool:
        """Whether every member event is named."""
        return (
            self.type in (ANY, MEMBER)
            and self.state_key == ANY
            and not self.excluded & {(MEMBER, ANY), (ANY, ANY)}
        )


Rules = frozenset[Rule]


@dataclass(frozen=True, slots=True)
class RequiredState:
    """What a client wants of a room's state."""

    rules: Rules = frozenset()
    lazy_members: bool = False
    """Besides: the members that the timeline's events are about."""

    def __or__(self, other: RequiredState) -> RequiredState:
        rules = shared(self.rules | other.rules)
        lazy = self.lazy_members or other.lazy_members
        return RequiredState(rules, lazy and not any(rule.names_all_members for rule in rules))


def make_required_state(
    include: list[Pattern], exclude: list[Pattern], *, lazy_members: bool
) -> RequiredState:
    """Return what these patterns name; with lazy members "everything" is all but members."""
    excluded = frozenset(exclude)
    but_members = excluded | {(MEMBER, ANY)}
    rules = frozenset(
        Rule(kind, key, but_members if lazy_members and (kind, key) == (ANY, ANY) else excluded)
        for kind, key in include
    )
    return RequiredState(shared(rules)) | RequiredState(lazy_members=lazy_members)


@lru_cache(maxsize=512)
def shared(rules: Rules) -> Rules:
    """Return equal rules, mostly the same object for equal ones: fast to compare."""
    return rules


@lru_cache(maxsize=512)
def matcher(rules: Rules) -> Matcher:
    """Return a function that tells whether some rule names an event."""
    index: dict[Pattern, list[frozenset[Pattern]]] = {}
    for rule in rules:
        index.setdefault((rule.type, rule.state_key), []).append(rule.excluded)

    def matches(kind: str, key: str) -> bool:
        forms = ((kind, key), (kind, ANY), (ANY, key), (ANY, ANY))
        return any(
            not any(form in excluded for form in forms)
            for form in forms
            for excluded in index.get(form, ())
        )

    return matches
