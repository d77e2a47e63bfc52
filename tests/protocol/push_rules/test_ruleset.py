"""Editing push rules, as the API promises it."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.errors import InvalidParam, MatrixError, MissingParam, NotFound
from yizhan_server.protocol.push_rules import (
    check_kind,
    compile_rules,
    default_ruleset,
    delete_rule,
    find_rule,
    put_rule,
    set_actions,
    set_enabled,
    with_current_defaults,
)
from yizhan_server.protocol.push_rules.ruleset import MAX_USER_RULES
from yizhan_testing.protocol_room import ALICE, BOB

EMPTY: dict[str, Any] = {"actions": []}


def ids(ruleset: dict[str, Any], kind: str = "override") -> list[str]:
    return [rule["rule_id"] for rule in ruleset[kind] if not rule["default"]]


def with_rules(*rule_ids: str) -> dict[str, Any]:
    ruleset = default_ruleset(ALICE)
    for rule_id in reversed(rule_ids):
        ruleset = put_rule(ruleset, "override", rule_id, EMPTY)
    return ruleset


def test_a_new_account_has_the_default_rules_of_the_specification() -> None:
    ruleset = default_ruleset(ALICE)
    assert {kind: [rule["rule_id"] for rule in rules] for kind, rules in ruleset.items()} == {
        "override": [
            ".m.rule.master",
            ".m.rule.suppress_notices",
            ".m.rule.invite_for_me",
            ".m.rule.member_event",
            ".m.rule.is_user_mention",
            ".m.rule.is_room_mention",
            ".m.rule.tombstone",
            ".m.rule.reaction",
            ".m.rule.room.server_acl",
            ".m.rule.suppress_edits",
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": [
            ".m.rule.call",
            ".m.rule.encrypted_room_one_to_one",
            ".m.rule.room_one_to_one",
            ".m.rule.message",
            ".m.rule.encrypted",
        ],
    }
    every = [rule for rules in ruleset.values() for rule in rules]
    assert [rule["rule_id"] for rule in every if not rule["enabled"]] == [".m.rule.master"]
    assert all(rule["default"] for rule in every)
    invite = find_rule(ruleset, "override", ".m.rule.invite_for_me")
    assert invite is not None
    assert invite["conditions"][2]["pattern"] == ALICE
    mention = find_rule(ruleset, "override", ".m.rule.is_user_mention")
    assert mention is not None
    assert mention["conditions"][0]["value"] == ALICE


def test_a_new_rule_is_enabled_and_the_most_important_one_after_master() -> None:
    ruleset = with_rules("a", "b")
    assert ids(ruleset) == ["a", "b"]
    assert [rule["rule_id"] for rule in ruleset["override"]][:4] == [
        ".m.rule.master",
        "a",
        "b",
        ".m.rule.suppress_notices",
    ]
    assert find_rule(ruleset, "override", "a") == {
        "rule_id": "a",
        "default": False,
        "enabled": True,
        "conditions": [],
        "actions": [],
    }


@pytest.mark.parametrize(
    ("before", "after", "order"),
    [
        (None, None, ["new", "a", "b", "c"]),
        ("b", None, ["a", "new", "b", "c"]),
        (None, "b", ["a", "b", "new", "c"]),
        ("c", "a", ["a", "b", "new", "c"]),
        (None, "c", ["a", "b", "c", "new"]),
    ],
)
def test_a_rule_goes_where_it_is_wanted(
    before: str | None, after: str | None, order: list[str]
) -> None:
    ruleset = with_rules("a", "b", "c")
    assert ids(put_rule(ruleset, "override", "new", EMPTY, before=before, after=after)) == order


def test_a_changed_rule_stays_where_and_as_enabled_as_it_was() -> None:
    ruleset = set_enabled(with_rules("a", "b", "c"), "override", "b", enabled=False)
    ruleset = put_rule(ruleset, "override", "b", {"actions": ["notify"]})
    assert ids(ruleset) == ["a", "b", "c"]
    changed = find_rule(ruleset, "override", "b")
    assert changed is not None
    assert (changed["enabled"], changed["actions"]) == (False, ["notify"])
    assert ids(put_rule(ruleset, "override", "b", EMPTY, before="a")) == ["b", "a", "c"]
    assert ids(put_rule(ruleset, "override", "b", EMPTY, after="c")) == ["a", "c", "b"]


@pytest.mark.parametrize("neighbour", ["missing", ".m.rule.master", ".m.rule.tombstone", "b"])
def test_a_neighbour_is_another_rule_of_the_users(neighbour: str) -> None:
    for place in ({"before": neighbour}, {"after": neighbour}):
        with pytest.raises(MatrixError) as refused:
            put_rule(with_rules("a", "b"), "override", "b", EMPTY, **place)
        assert (refused.value.status, refused.value.errcode) == (400, "M_UNKNOWN")


def condition(**fields: Any) -> dict[str, Any]:
    return {"actions": [], "conditions": [fields]}


@pytest.mark.parametrize(
    ("kind", "rule_id", "body", "error"),
    [
        ("device", "r", EMPTY, InvalidParam),
        ("override", ".mine", EMPTY, InvalidParam),
        ("override", ".m.rule.master", EMPTY, InvalidParam),
        ("override", "a/b", EMPTY, InvalidParam),
        ("override", "a\\b", EMPTY, InvalidParam),
        ("override", "", EMPTY, InvalidParam),
        ("override", "r" * 256, EMPTY, InvalidParam),
        ("override", "r", [], InvalidParam),
        ("override", "r", {}, MissingParam),
        ("override", "r", {"actions": "notify"}, InvalidParam),
        ("override", "r", {"actions": ["shout"]}, InvalidParam),
        ("override", "r", {"actions": [1]}, InvalidParam),
        ("override", "r", {"actions": [{}]}, InvalidParam),
        ("override", "r", {"actions": [{"set_tweak": 1}]}, InvalidParam),
        ("override", "r", {"actions": [], "conditions": {}}, InvalidParam),
        ("override", "r", {"actions": [], "conditions": [1]}, InvalidParam),
        ("override", "r", {"actions": [], "conditions": [{"kind": "x"}] * 33}, InvalidParam),
        ("override", "r", condition(), InvalidParam),
        ("override", "r", condition(kind=1), InvalidParam),
        ("override", "r", condition(kind="event_match", key="type"), InvalidParam),
        ("override", "r", condition(kind="event_match", pattern="x"), InvalidParam),
        ("override", "r", condition(kind="event_match", key="a", pattern="x" * 513), InvalidParam),
        ("override", "r", condition(kind="event_property_is", key="a"), InvalidParam),
        ("override", "r", condition(kind="event_property_is", key="a", value={}), InvalidParam),
        ("override", "r", condition(kind="event_property_contains", value=1), InvalidParam),
        ("override", "r", condition(kind="room_member_count", **{"is": "=2"}), InvalidParam),
        ("override", "r", condition(kind="room_member_count"), InvalidParam),
        ("override", "r", condition(kind="sender_notification_permission"), InvalidParam),
        ("content", "r", EMPTY, MissingParam),
        ("content", "r", {"actions": [], "pattern": 1}, InvalidParam),
    ],
)
def test_a_malformed_rule_is_refused(
    kind: str, rule_id: str, body: Any, error: type[MatrixError]
) -> None:
    with pytest.raises(error):
        put_rule(default_ruleset(ALICE), kind, rule_id, body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("override", condition(kind="org.example.future", anything={"goes": 1})),
        ("underride", condition(kind="event_match", key="content.body", pattern="beer")),
        ("underride", condition(kind="room_member_count", **{"is": "<=10"})),
        ("override", condition(kind="event_property_is", key="a", value=None)),
        ("override", condition(kind="contains_display_name")),
        ("content", {"actions": ["notify", {"set_tweak": "x"}], "pattern": "cake*lie"}),
        ("room", EMPTY),
        ("sender", EMPTY),
    ],
)
def test_a_well_formed_rule_is_kept_as_it_is(kind: str, body: dict[str, Any]) -> None:
    rule = find_rule(put_rule(default_ruleset(ALICE), kind, "r", body), kind, "r")
    assert rule is not None
    assert body.items() <= rule.items()


def test_actions_of_old_clients_are_kept_and_foreign_keys_dropped() -> None:
    body = {"actions": ["dont_notify", "coalesce", "notify"], "rule_id": "x", "default": True}
    rule = find_rule(put_rule(default_ruleset(ALICE), "room", "r", body), "room", "r")
    actions = ["dont_notify", "coalesce", "notify"]
    assert rule == {"rule_id": "r", "default": False, "enabled": True, "actions": actions}


def test_an_account_has_so_many_rules_and_no_more() -> None:
    ruleset = default_ruleset(ALICE)
    template = put_rule(ruleset, "room", "r", EMPTY)["room"][0]
    ruleset["room"] = [{**template, "rule_id": str(n)} for n in range(MAX_USER_RULES)]
    with pytest.raises(InvalidParam):
        put_rule(ruleset, "sender", "new", EMPTY)
    put_rule(ruleset, "room", "0", EMPTY)


def test_rules_are_deleted_but_default_ones_are_not() -> None:
    assert ids(delete_rule(with_rules("a", "b"), "override", "a")) == ["b"]
    with pytest.raises(InvalidParam):
        delete_rule(default_ruleset(ALICE), "override", ".m.rule.master")
    with pytest.raises(NotFound):
        delete_rule(with_rules("a"), "underride", "a")


def test_default_rules_can_be_disabled_and_given_other_actions() -> None:
    ruleset = set_enabled(default_ruleset(ALICE), "underride", ".m.rule.message", enabled=False)
    ruleset = set_actions(ruleset, "underride", ".m.rule.message", ["notify", "coalesce"])
    rule = find_rule(ruleset, "underride", ".m.rule.message")
    assert rule is not None
    assert (rule["enabled"], rule["actions"]) == (False, ["notify", "coalesce"])


def test_odd_values_for_enabled_and_actions_are_refused() -> None:
    ruleset = default_ruleset(ALICE)
    for odd in (None, 1, "true"):
        with pytest.raises(InvalidParam):
            set_enabled(ruleset, "override", ".m.rule.master", enabled=odd)
    with pytest.raises(InvalidParam):
        set_actions(ruleset, "override", ".m.rule.master", ["odd"])
    with pytest.raises(NotFound):
        set_actions(ruleset, "override", "missing", [])
    with pytest.raises(NotFound):
        set_enabled(ruleset, "override", "missing", enabled=True)
    with pytest.raises(InvalidParam):
        check_kind("device")


def test_stored_rules_get_the_default_rules_of_today() -> None:
    ruleset = set_enabled(with_rules("a", "b"), "override", ".m.rule.reaction", enabled=False)
    ruleset = set_actions(ruleset, "underride", ".m.rule.message", [])
    stored = deepcopy(ruleset)
    # As of another year: a rule that is gone, one that is missing, one that was otherwise.
    stored["override"][3:3] = [{**stored["override"][0], "rule_id": ".m.rule.gone"}]
    stored["override"] = [r for r in stored["override"] if r["rule_id"] != ".m.rule.tombstone"]
    stored["underride"][3]["conditions"] = []
    assert with_current_defaults(stored, ALICE) == ruleset
    assert compile_rules(with_current_defaults(stored, BOB)) == compile_rules(ruleset)


STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.none() | st.sampled_from("abcd"), st.booleans()),
    max_size=12,
)


@given(STEPS)
def test_whatever_is_edited_ids_stay_unique_and_earlier_rulesets_unchanged(
    steps: list[tuple[str, str | None, bool]],
) -> None:
    ruleset = default_ruleset(ALICE)
    for rule_id, neighbour, is_before in steps:
        frozen = deepcopy(ruleset)
        place = {} if neighbour is None else {"before" if is_before else "after": neighbour}
        try:
            edited = put_rule(ruleset, "override", rule_id, EMPTY, **place)
        except MatrixError:
            edited = ruleset
        assert ruleset == frozen
        ruleset = edited
        every = [rule["rule_id"] for rule in ruleset["override"]]
        assert len(set(every)) == len(every)
        assert every[0] == ".m.rule.master"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("content", {"pattern": "a"}),
        (
            "override",
            {"conditions": [{"kind": "event_match", "key": "content.x", "pattern": "?" * 400}]},
        ),
        ("override", {"conditions": [{"kind": "contains_display_name"}] * 20}),
        (
            "underride",
            {
                "conditions": [
                    {"kind": "event_property_contains", "key": "content.x", "value": str(n)}
                    for n in range(32)
                ]
            },
        ),
    ],
)
def test_an_accounts_rules_look_for_only_so_much_in_each_message(
    kind: str, body: dict[str, Any]
) -> None:
    ruleset = default_ruleset(ALICE)
    added = 0
    for added in range(MAX_USER_RULES):
        try:
            ruleset = put_rule(ruleset, kind, str(added), {"actions": [], **body})
        except InvalidParam:
            break
    assert 5 < added < 500
    # What exists may be changed, and what costs nothing may be added.
    put_rule(ruleset, kind, "0", {"actions": ["notify"], **body})
    put_rule(ruleset, "room", "!x:example.org", {"actions": []})
    muted = {"kind": "event_match", "key": "room_id", "pattern": "!y:example.org"}
    put_rule(ruleset, "override", "mute", {"actions": [], "conditions": [muted]})
