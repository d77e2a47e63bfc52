"""The conflicts that state resolution is for, and the state resets that v2.1 ended (MSC4297)."""

from __future__ import annotations

from typing import Any

import pytest

from yizhan_server.protocol.identifiers import EventID, UserID
from yizhan_server.protocol.room_version import V1, V2, V6, V11, V12, RoomVersion
from yizhan_server.protocol.state_resolution import NeedEvents, resolve_state
from yizhan_testing import whole_set_resolution as oracle
from yizhan_testing.forked_room import Answers, ForkedRoom, Node, resolved_by_differences
from yizhan_testing.protocol_room import ALICE, BOB, CAROL
from yizhan_testing.whole_set_resolution import State

LEVELS = ("m.room.power_levels", "")
RULES = ("m.room.join_rules", "")
TOPIC = ("m.room.topic", "")

since_v2 = pytest.mark.parametrize("version", [V2, V6, V11, V12], ids=lambda v: f"v{v.identifier}")


class Story:
    """A room of Alice, who made it, and Bob, and what they do after which event."""

    def __init__(self, version: RoomVersion) -> None:
        self.room = ForkedRoom(version)
        self.created = self.room.nodes[0]
        self.joined = self.joins(self.created, ALICE)
        levelled = self.sets_levels(self.joined, ALICE)
        self.public = self.sets_rule(levelled, "public")
        self.start = self.joins(self.public, BOB)

    def joins(self, after: Node, who: UserID, **fields: Any) -> Node:
        content = {"membership": "join"}
        return self.room.event([after], "m.room.member", who, content, who, **fields)

    def leaves(self, after: Node, who: UserID) -> Node:
        return self.room.event([after], "m.room.member", who, {"membership": "leave"}, who)

    def bans(self, after: Node, who: UserID, whom: UserID, **fields: Any) -> Node:
        content = {"membership": "ban"}
        return self.room.event([after], "m.room.member", who, content, whom, **fields)

    def sets_levels(self, after: Node, who: UserID, **fields: Any) -> Node:
        levels = fields.pop("levels", {})
        own = {} if self.room.version.privileged_creators else {ALICE: 100}
        content = {"users": own | levels, "events": {"m.room.topic": fields.pop("topic", 50)}}
        return self.room.event([after], "m.room.power_levels", who, content, **fields)

    def sets_rule(self, after: Node, rule: str) -> Node:
        return self.room.event([after], "m.room.join_rules", ALICE, {"join_rule": rule})

    def sets_topic(self, after: Node, who: UserID, topic: str, **fields: Any) -> Node:
        return self.room.event([after], "m.room.topic", who, {"topic": topic}, **fields)

    def resolves(self, *states: Node | State) -> State:
        """Resolve the states after these events; the oracle must agree."""
        whole = [one.state_after if isinstance(one, Node) else one for one in states]
        resolved, _ = resolved_by_differences(whole, self.room.events, self.room.version)
        assert resolved == oracle.resolution(whole, self.room.events, self.room.version)
        return resolved


def of(node: Node) -> EventID:
    return node.event.event_id


@since_v2
def test_a_ban_wins_over_what_the_banned_moderator_did_meanwhile(version: RoomVersion) -> None:
    story = Story(version)
    moderated = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    banned = story.bans(moderated, ALICE, BOB)
    # Bob's clock is an hour behind: that must not help him.
    taken_over = story.sets_levels(moderated, BOB, levels={BOB: 50, CAROL: 50}, delay_ms=-3_600_000)
    renamed = story.sets_topic(taken_over, BOB, "mine")

    resolved = story.resolves(banned, renamed)

    assert resolved["m.room.member", BOB] == of(banned)
    assert resolved[LEVELS] == of(moderated)
    assert TOPIC not in resolved


@since_v2
def test_nobody_slips_in_while_the_door_is_being_closed(version: RoomVersion) -> None:
    story = Story(version)
    closed = story.sets_rule(story.start, "invite")
    slipped_in = story.joins(story.start, CAROL, delay_ms=-3_600_000)

    resolved = story.resolves(closed, slipped_in)

    assert resolved[RULES] == of(closed)
    assert ("m.room.member", CAROL) not in resolved


@since_v2
def test_the_stronger_of_two_concurrent_power_levels_is_tried_first(version: RoomVersion) -> None:
    story = Story(version)
    moderated = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    by_alice = story.sets_levels(moderated, ALICE, levels={BOB: 0})
    by_bob = story.sets_levels(moderated, BOB, levels={BOB: 50, CAROL: 50}, delay_ms=-60_000)

    # In the other order both would be allowed, Bob's first.
    assert story.resolves(by_alice, by_bob)[LEVELS] == of(by_alice)


@since_v2
def test_a_topic_set_under_newer_power_levels_is_newer_whatever_the_clocks_say(
    version: RoomVersion,
) -> None:
    story = Story(version)
    old = story.sets_topic(story.start, ALICE, "old", delay_ms=3_600_000)
    relevelled = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    new = story.sets_topic(relevelled, BOB, "new", delay_ms=-3_600_000)

    assert story.resolves(old, new)[TOPIC] == of(new)


@since_v2
def test_of_two_topics_under_the_same_power_levels_the_later_one_stays(
    version: RoomVersion,
) -> None:
    story = Story(version)
    first = story.sets_topic(story.start, ALICE, "first")
    second = story.sets_topic(story.start, ALICE, "second")

    assert story.resolves(second, first)[TOPIC] == of(second)


@since_v2
def test_what_predates_all_power_levels_is_older_than_what_cites_the_first_ones(
    version: RoomVersion,
) -> None:
    story = Story(version)
    before_levels = story.sets_topic(story.joined, ALICE, "a", delay_ms=3_600_000)
    under_first = story.sets_topic(story.start, ALICE, "b", delay_ms=-3_600_000)
    one = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    two = story.sets_levels(one, ALICE, levels={BOB: 60})
    base = dict(two.state_after)

    # The power levels differ too, so that in every version the mainline ends in the newest.
    resolved = story.resolves(
        base | {TOPIC: of(before_levels)},
        base | {TOPIC: of(under_first), LEVELS: of(one)},
    )

    assert resolved[LEVELS] == of(two)
    assert resolved[TOPIC] == of(under_first)


def rules_reset(version: RoomVersion) -> tuple[Node, State]:
    """Problem A of MSC4297: a server was told old join rules; who set them has left."""
    story = Story(version)
    levelled = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    newest = story.sets_rule(levelled, "invite")
    left = story.leaves(newest, ALICE)
    return newest, story.resolves(left, left.state_after | {RULES: of(story.public)})


def test_conflicting_join_rules_are_not_judged_without_their_sender() -> None:
    newest, resolved = rules_reset(V12)
    assert resolved[RULES] == of(newest)
    # Version 11 loses them, as its text has it: rooms of that version must agree on that too.
    _, resolved = rules_reset(V11)
    assert RULES not in resolved


def promotion_reset(version: RoomVersion) -> tuple[Node, State]:
    """Problem B of MSC4297: old power levels in one state, from which no way leads to the new."""
    story = Story(version)
    entered = story.joins(story.start, CAROL)
    oldest = entered.state_after[LEVELS]
    bob_promoted = story.sets_levels(entered, ALICE, levels={BOB: 80})
    carol_promoted = story.sets_levels(bob_promoted, BOB, levels={BOB: 80, CAROL: 70})
    topic = story.sets_topic(carol_promoted, CAROL, "Carol may")
    return carol_promoted, story.resolves(carol_promoted, topic.state_after | {LEVELS: oldest})


def test_a_promotion_is_replayed_with_the_promotion_that_allowed_it() -> None:
    newest, resolved = promotion_reset(V12)
    assert resolved[LEVELS] == of(newest)
    _, resolved = promotion_reset(V11)
    assert resolved[LEVELS] != of(newest)


@since_v2
def test_a_member_whom_every_state_leaves_out_comes_back_with_what_he_did(
    version: RoomVersion,
) -> None:
    story = Story(version)
    moderated = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    by_bob = story.sets_topic(moderated, BOB, "Bob's")
    by_alice = story.sets_topic(moderated, ALICE, "Alice's")
    member = ("m.room.member", BOB)

    def without_bob(node: Node) -> State:
        return {key: one for key, one in node.state_after.items() if key != member}

    resolved = story.resolves(without_bob(by_bob), without_bob(by_alice))

    assert resolved[member] == of(story.start)


def test_in_version_1_a_refused_change_of_levels_ends_the_list() -> None:
    story = Story(V1)
    one = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    by_bob = story.sets_levels(one, BOB, levels={BOB: 50, CAROL: 50})
    deeper = story.sets_topic(story.sets_topic(story.start, ALICE, "x"), ALICE, "y")
    by_alice = story.sets_levels(deeper, ALICE, levels={CAROL: 10})
    base = story.start.state_after
    without_bob = story.sets_levels(story.start, ALICE, levels={CAROL: 20})

    # By depth: Alice's, Bob's (whom Alice's gives nothing), and one that Alice's would allow.
    resolved = story.resolves(
        base | {LEVELS: of(without_bob)}, base | {LEVELS: of(by_bob)}, base | {LEVELS: of(by_alice)}
    )

    assert resolved[LEVELS] == of(without_bob)


def test_in_version_1_the_deepest_topic_that_is_allowed_stays() -> None:
    story = Story(V1)
    moderated = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    deepest = story.sets_topic(moderated, BOB, "Bob's")
    by_alice = story.sets_topic(story.start, ALICE, "Alice's")
    unmoderated = story.start.state_after

    # Both sides have the levels of the start: there Bob's topic is not allowed, deep as it is.
    resolved = story.resolves(
        unmoderated | {TOPIC: of(deepest)}, unmoderated | {TOPIC: of(by_alice)}
    )
    assert resolved[TOPIC] == of(by_alice)
    # Nor is a key contested that one side lacks.
    assert story.resolves(unmoderated, unmoderated | {TOPIC: of(deepest)})[TOPIC] == of(deepest)


def test_in_version_1_a_key_does_not_vanish_because_nobody_may_set_it_any_more() -> None:
    story = Story(V1)
    moderated = story.sets_levels(story.start, ALICE, levels={BOB: 50})
    first = story.sets_topic(moderated, BOB, "first")
    second = story.sets_topic(first, BOB, "second")
    unmoderated = story.start.state_after

    resolved = story.resolves(unmoderated | {TOPIC: of(second)}, unmoderated | {TOPIC: of(first)})

    assert resolved[TOPIC] == of(first)


def test_a_long_mainline_is_walked_step_by_step_and_may_be_given_up() -> None:
    story = Story(V12)
    first = story.sets_topic(story.start, ALICE, "first")
    at = story.start
    for level in range(1, 1501):
        # Authorised by what they cite; whole states of so long a history would cost minutes.
        at = story.sets_levels(at, ALICE, levels={BOB: level}, state_before=dict(at.state_after))
    last = story.sets_topic(at, ALICE, "last", state_before=dict(at.state_after))
    events = story.room.events
    conflicted = {TOPIC: frozenset([of(first), of(last)]), LEVELS: frozenset([of(at)])}

    answers = Answers(events, {})
    resolved = answers.run(resolve_state(V12, conflicted, frozenset()))
    assert resolved == {TOPIC: of(last), LEVELS: of(at)}
    assert 1500 < sum(map(len, answers.asked)) < 1520

    # A driver whose budget is spent closes it in the middle, and that is all.
    steps = resolve_state(V12, conflicted, frozenset())
    need = next(steps)
    for _ in range(100):
        assert isinstance(need, NeedEvents)
        need = steps.send({one: events[one] for one in need.event_ids if one in events})
    steps.close()
