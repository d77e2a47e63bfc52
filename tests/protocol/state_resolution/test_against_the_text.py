"""State resolution on differences says what the specification's words say on whole sets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_testing import whole_set_resolution as oracle
from yizhan_testing.forked_room import ForkedRoom, resolved_by_differences
from yizhan_testing.protocol_room import versions
from yizhan_testing.random_history import DELAYS_MS, KINDS, LEVELS, PEOPLE, Act, founded, perform
from yizhan_testing.whole_set_resolution import State

# One of each algorithm, and those between which the authorisation rules changed.
VERSIONS = [versions(n, n)[0] for n in (1, 2, 6, 11, 12)]


ACTS = st.builds(
    Act,
    st.sampled_from(KINDS),
    st.sampled_from(PEOPLE),
    st.sampled_from(PEOPLE),
    st.sampled_from(LEVELS),
    st.frozensets(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from(DELAYS_MS),
    # Mostly every server knows the state; sometimes one was told an old one.
    st.one_of(st.just(0), st.just(0), st.integers(0, 50)),
)


def histories(version: RoomVersion) -> st.SearchStrategy[tuple[ForkedRoom, list[State]]]:
    """Rooms with forks, and the states after two to four of their events."""

    def play(acts: Sequence[Act], picks: frozenset[int]) -> tuple[ForkedRoom, list[State]]:
        room = founded(version)
        for act in acts:
            perform(room, act)
        picked = {number % len(room.nodes) for number in picks}
        return room, [room.nodes[-1 - number].state_after for number in sorted(picked)]

    return st.builds(
        play,
        st.lists(ACTS, min_size=4, max_size=16),
        st.frozensets(st.integers(0, 7), min_size=2, max_size=4),
    )


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"v{version.identifier}")
@given(data=st.data())
@settings(max_examples=40)
def test_differences_resolve_to_what_whole_sets_resolve_to(
    version: RoomVersion, data: st.DataObject
) -> None:
    room, states = data.draw(histories(version))
    assume(len({tuple(sorted(state.items())) for state in states}) > 1)

    resolved, answers = resolved_by_differences(states, room.events, version)

    assert resolved == oracle.resolution(states, room.events, version)
    assert len(answers.asked) <= 2 + 2 * len(room.events)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"v{version.identifier}")
@given(data=st.data(), chance=st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_no_order_of_anything_matters(
    version: RoomVersion, data: st.DataObject, chance: random.Random
) -> None:
    room, states = data.draw(histories(version))
    shuffled_events = dict(chance.sample(sorted(room.events.items()), len(room.events)))
    shuffled_states = [
        dict(chance.sample(sorted(state.items()), len(state)))
        for state in chance.sample(states, len(states))
    ]

    def shuffle(ids: Iterable[EventID]) -> Sequence[EventID]:
        all_ids = sorted(ids)
        return chance.sample(all_ids, len(all_ids))

    one, _ = resolved_by_differences(states, room.events, version)
    other, _ = resolved_by_differences(shuffled_states, shuffled_events, version, shuffle=shuffle)

    assert one == other


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"v{version.identifier}")
@given(data=st.data())
@settings(max_examples=15)
def test_equal_states_resolve_to_themselves_and_nothing_is_asked(
    version: RoomVersion, data: st.DataObject
) -> None:
    room, states = data.draw(histories(version))
    for state in states:
        resolved, answers = resolved_by_differences([state, dict(state)], room.events, version)
        assert resolved == state
        assert answers.asked == []
    # A set that is there twice has no more weight.
    once, _ = resolved_by_differences(states, room.events, version)
    twice, _ = resolved_by_differences([*states, states[0]], room.events, version)
    assert once == twice


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"v{version.identifier}")
@given(data=st.data(), chance=st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_an_event_that_is_missing_or_rejected_is_as_if_nobody_had_named_it(
    version: RoomVersion, data: st.DataObject, chance: random.Random
) -> None:
    room, states = data.draw(histories(version))
    create = room.nodes[0].event.event_id
    there = {
        event_id: event
        for event_id, event in room.events.items()
        if event_id == create or chance.random() < 0.8
    }
    resolved, _ = resolved_by_differences(states, there, version)
    assert resolved == oracle.resolution(states, there, version)
