"""Which state the rules of sliding sync name, and what a connection's stored state says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.sync.sliding.connection import SentRoom, pack_state, unpack_state
from yizhan_server.sync.sliding.required_state import (
    ANY,
    MEMBER,
    Pattern,
    RequiredState,
    Rule,
    make_required_state,
    matcher,
)

PATTERNS = st.tuples(st.sampled_from(["a", "b", MEMBER, ANY]), st.sampled_from(["", "x", ANY]))
EVENTS = st.tuples(st.sampled_from(["a", "b", "c", MEMBER]), st.sampled_from(["", "x", "y"]))


def is_named(include: list[Pattern], exclude: list[Pattern], event: Pattern) -> bool:
    """What the MSC says, word for word: some element matches, and none that is left out."""

    def fits(pattern: Pattern) -> bool:
        return all(want in (ANY, have) for want, have in zip(pattern, event, strict=True))

    return any(map(fits, include)) and not any(map(fits, exclude))


@given(include=st.lists(PATTERNS, max_size=4), exclude=st.lists(PATTERNS, max_size=3), event=EVENTS)
def test_rules_name_what_is_included_and_not_excluded(
    include: list[Pattern], exclude: list[Pattern], event: Pattern
) -> None:
    rules = make_required_state(include, exclude, lazy_members=False).rules
    assert matcher(rules)(*event) == is_named(include, exclude, event)


@given(
    one=st.tuples(st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=2)),
    other=st.tuples(st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=2)),
    event=EVENTS,
)
def test_united_rules_name_what_either_names(
    one: tuple[list[Pattern], list[Pattern]],
    other: tuple[list[Pattern], list[Pattern]],
    event: Pattern,
) -> None:
    united = make_required_state(*one, lazy_members=False) | make_required_state(
        *other, lazy_members=False
    )
    assert matcher(united.rules)(*event) == (is_named(*one, event) or is_named(*other, event))


def test_with_lazy_members_everything_is_all_but_members() -> None:
    wanted = make_required_state([(ANY, ANY)], [], lazy_members=True)
    assert wanted.lazy_members
    assert matcher(wanted.rules)("m.room.name", "")
    assert not matcher(wanted.rules)(MEMBER, "@a:x")
    explicit = make_required_state([(ANY, ANY), (MEMBER, "@a:x")], [], lazy_members=True)
    assert matcher(explicit.rules)(MEMBER, "@a:x")
    assert not matcher(explicit.rules)(MEMBER, "@b:x")


@pytest.mark.parametrize("members", [(ANY, ANY), (MEMBER, ANY)])
def test_whoever_wants_all_members_needs_none_lazily(members: Pattern) -> None:
    lazy = make_required_state([], [], lazy_members=True)
    eager = make_required_state([members], [], lazy_members=False)
    for united in (lazy | eager, eager | lazy):
        assert not united.lazy_members
        assert matcher(united.rules)(MEMBER, "@a:x")
    assert (lazy | RequiredState()).lazy_members


RULES = st.frozensets(
    st.builds(Rule, st.text(max_size=3), st.text(max_size=3), st.frozensets(PATTERNS, max_size=2)),
    max_size=3,
)
ROOMS = st.builds(
    SentRoom,
    st.integers(0, 100),
    RULES,
    st.integers(0, 7),
    st.integers(0, 2**62),
)


@given(st.dictionaries(st.integers(1, 2**62), ROOMS, max_size=5))
def test_a_state_is_read_as_it_was_stored(state: dict[int, SentRoom]) -> None:
    assert unpack_state(pack_state(state)) == state


def test_the_stored_state_of_many_rooms_is_small() -> None:
    rules = make_required_state([("m.room.name", ""), (MEMBER, "@a:x")], [], lazy_members=True)
    state = {1000 + number: SentRoom(20, rules.rules, 3) for number in range(2000)}
    assert len(pack_state(state)) < 2000 * 10
