"""Evaluation: default rules, every kind of condition, order of rules, groups of users."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.power_levels import read_power_levels
from yizhan_server.protocol.push_rules import (
    KINDS,
    PushActions,
    PushEvent,
    Viewer,
    compile_rules,
    default_ruleset,
    evaluate,
    evaluate_group,
    put_rule,
    set_actions,
    set_enabled,
)
from yizhan_server.protocol.push_rules.conditions import split_path
from yizhan_server.protocol.room_version import V12
from yizhan_testing.protocol_room import ALICE, BOB, CAROL, ProtocolRoom

ROOM = "!r:a.test"
LOUD = PushActions(notify=True, tweaks={"sound": "default"})
PLAIN = PushActions(notify=True, tweaks={})
SILENT = PushActions(notify=False, tweaks={})
MENTION = PushActions(notify=True, tweaks={"sound": "default", "highlight": True})
HIGHLIGHT = PushActions(notify=True, tweaks={"highlight": True})


def event(
    content: dict[str, Any] | None = None,
    event_type: str = "m.room.message",
    *,
    members: int = 3,
    levels: dict[str, Any] | None = None,
    **fields: Any,
) -> PushEvent:
    room = ProtocolRoom(V12, creator=UserID("@founder:a.test"))
    room.put_levels(**(levels or {}))
    body = {
        "type": event_type,
        "sender": ALICE,
        "room_id": ROOM,
        "content": content or {},
        **fields,
    }
    return PushEvent(body, member_count=members, levels=read_power_levels(room.state, V12))


def for_bob(pushed: PushEvent, ruleset: Any = None, name: str | None = None) -> PushActions | None:
    rules = compile_rules(default_ruleset(BOB) if ruleset is None else ruleset)
    return evaluate(rules, pushed, Viewer(BOB, name))


def holds(pushed: PushEvent, *conditions: Any, name: str | None = None) -> bool:
    rule = {"rule_id": "r", "enabled": True, "conditions": list(conditions), "actions": ["notify"]}
    return for_bob(pushed, {"override": [rule]}, name) == PLAIN


# --- the default rules


@pytest.mark.parametrize(
    ("pushed", "expected"),
    [
        (event({"msgtype": "m.text", "body": "hi"}), PLAIN),
        (event({"msgtype": "m.text", "body": "hi"}, members=2), LOUD),
        (event({"msgtype": "m.notice", "body": "hi"}, members=2), SILENT),
        (event({}, "m.room.encrypted"), PLAIN),
        (event({}, "m.room.encrypted", members=2), LOUD),
        (event({}, "m.call.invite"), PushActions(notify=True, tweaks={"sound": "ring"})),
        (event({"membership": "invite"}, "m.room.member", state_key=BOB), LOUD),
        (event({"membership": "invite"}, "m.room.member", state_key=CAROL), SILENT),
        (event({"membership": "leave"}, "m.room.member", state_key=BOB), SILENT),
        (event({"m.mentions": {"user_ids": [CAROL, BOB]}}), MENTION),
        (event({"m.mentions": {"user_ids": [CAROL]}}), PLAIN),
        (event({"m.mentions": {"user_ids": BOB}}), PLAIN),
        (event({"m.mentions": {"user_ids": [BOB]}}, "m.room.encrypted"), MENTION),
        (event({"m.mentions": {"room": True}}, levels={"users": {ALICE: 50}}), HIGHLIGHT),
        (event({"m.mentions": {"room": True}}, levels={"users": {ALICE: 49}}), PLAIN),
        (event({"m.mentions": {"room": 1}}, levels={"users": {ALICE: 50}}), PLAIN),
        (
            event(
                {"m.mentions": {"room": True}},
                levels={"users": {ALICE: 10}, "notifications": {"room": 10}},
            ),
            HIGHLIGHT,
        ),
        (event({}, "m.room.tombstone", state_key=""), HIGHLIGHT),
        (event({}, "m.room.tombstone"), None),
        (event({}, "m.reaction"), SILENT),
        (event({}, "m.room.server_acl", state_key=""), SILENT),
        (event({"m.relates_to": {"rel_type": "m.replace"}}), SILENT),
        (event({"m.relates_to": {"rel_type": "m.thread"}}), PLAIN),
        (event({}, "m.room.topic", state_key=""), None),
        (event({"body": "bob"}, "org.example"), None),
    ],
)
def test_default_rules(pushed: PushEvent, expected: PushActions | None) -> None:
    assert for_bob(pushed) == expected


def test_one_is_not_notified_of_ones_own_events() -> None:
    assert for_bob(event({"body": "hi"}, members=2, sender=BOB)) is None


def test_the_master_rule_silences_everything_the_users_own_rules_too() -> None:
    ruleset = put_rule(default_ruleset(BOB), "override", "mine", {"actions": ["notify"]})
    assert for_bob(event(), ruleset) == PLAIN
    ruleset = set_enabled(ruleset, "override", ".m.rule.master", enabled=True)
    assert for_bob(event(), ruleset) == SILENT
    ruleset["override"] = ruleset["override"][::-1]  # wherever it stands
    assert for_bob(event(), ruleset) == SILENT


# --- conditions


@pytest.mark.parametrize(
    ("key", "pattern", "matches"),
    [
        ("type", "M.ROOM.*", True),
        ("type", "m.room", False),
        ("content.topic", "lunch", True),
        ("content.topic", "lunc", False),
        ("content.body", "plan", True),
        ("content.body", "pla", False),
        (r"content.a\.b", "dots", True),
        ("content.a.b", "dots", False),
        ("content.number", "*", False),
        ("content.missing", "*", False),
        ("content.body.deeper", "*", False),
        ("content", "*", False),
        ("state_key", "", False),
        ("room_id", ROOM, True),
    ],
)
def test_event_match(key: str, pattern: str, matches: bool) -> None:
    pushed = event({"topic": "Lunch", "body": "My plan.", "a.b": "dots", "number": 1})
    assert holds(pushed, {"kind": "event_match", "key": key, "pattern": pattern}) is matches


VALUES = {"s": "x", "i": 1, "t": True, "n": None, "f": 1.0, "l": ["x", 1, True, None, {}], "o": {}}


@pytest.mark.parametrize(
    ("key", "value", "matches"),
    [
        ("s", "x", True),
        ("s", "X", False),
        ("i", 1, True),
        ("i", True, False),
        ("t", True, True),
        ("t", 1, False),
        ("t", "true", False),
        ("n", None, True),
        ("missing", None, False),
        ("f", 1, False),
        ("l", "x", False),
        ("o", {}, False),
        ("l", ["x", 1, True, None, {}], False),
    ],
)
def test_event_property_is(key: str, value: Any, matches: bool) -> None:
    condition = {"kind": "event_property_is", "key": f"content.{key}", "value": value}
    assert holds(event(VALUES), condition) is matches


@pytest.mark.parametrize(
    ("key", "value", "matches"),
    [
        ("l", "x", True),
        ("l", "X", False),
        ("l", 1, True),
        ("l", None, True),
        ("l", False, False),
        ("l", {}, False),
        ("s", "x", False),
        ("missing", "x", False),
    ],
)
def test_event_property_contains(key: str, value: Any, matches: bool) -> None:
    condition = {"kind": "event_property_contains", "key": f"content.{key}", "value": value}
    assert holds(event(VALUES), condition) is matches


@pytest.mark.parametrize(
    ("name", "body", "matches"),
    [
        ("Bob", "hello BOB!", True),
        ("Bob", "hello Bobby", False),
        ("张三", "请张三看一下", True),
        ("*", "hello", False),
        ("?", "a", False),
        ("B*b", "what, b*b?", True),
        ("", "hello", False),
        (None, "hello", False),
    ],
)
def test_contains_display_name(name: str | None, body: str, matches: bool) -> None:
    assert holds(event({"body": body}), {"kind": "contains_display_name"}, name=name) is matches
    assert not holds(event({"body": 1}), {"kind": "contains_display_name"}, name=name)


@pytest.mark.parametrize(
    ("wanted", "counts"),
    [
        ("2", {2}),
        ("==2", {2}),
        ("<2", {1}),
        (">2", {3}),
        ("<=2", {1, 2}),
        (">=2", {2, 3}),
        ("", set()),
        ("=2", set()),
        ("2 ", set()),
        ("-2", set()),
        (2, {2}),
        (None, set()),
    ],
)
def test_room_member_count(wanted: Any, counts: set[int]) -> None:
    condition = {"kind": "room_member_count", "is": wanted}
    assert {n for n in (1, 2, 3) if holds(event(members=n), condition)} == counts


def test_sender_notification_permission() -> None:
    condition = {"kind": "sender_notification_permission", "key": "shout"}
    levels = {"users": {ALICE: 20}, "notifications": {"shout": 20}}
    assert holds(event(levels=levels), condition)
    levels = {"users": {ALICE: 19}, "notifications": {"shout": 20}}
    assert not holds(event(levels=levels), condition)


@pytest.mark.parametrize(
    "condition",
    [
        None,
        "event_match",
        {},
        {"kind": "device"},
        {"kind": ["event_match"]},
        {"kind": "event_match", "key": "type"},
        {"kind": "event_match", "pattern": "*"},
        {"kind": "event_property_is", "key": "type"},
        {"kind": "event_property_contains", "value": "x"},
        {"kind": "sender_notification_permission"},
        {"kind": "room_member_count"},
    ],
)
def test_unknown_and_incomplete_conditions_never_hold(condition: Any) -> None:
    assert not holds(event({"body": "x"}), condition)


def test_all_conditions_must_hold_and_none_always_do() -> None:
    yes, no = {"kind": "room_member_count", "is": "3"}, {"kind": "room_member_count", "is": "4"}
    assert holds(event())
    assert holds(event(), yes, yes)
    assert not holds(event(), yes, no)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a.b", ("a", "b")),
        (r"a\.b", ("a.b",)),
        (r"a\\b", ("a\\b",)),
        (r"a\\.b", ("a\\", "b")),
        (r"a\x", ("a\\x",)),
        ("a\\", ("a\\",)),
        ("", ("",)),
        ("a..b", ("a", "", "b")),
    ],
)
def test_paths(key: str, path: tuple[str, ...]) -> None:
    assert split_path(key) == path


# --- rules


def rule(rule_id: str, tweak: str, **fields: Any) -> dict[str, Any]:
    actions = ["notify", {"set_tweak": "sound", "value": tweak}]
    return {"rule_id": rule_id, "enabled": True, "actions": actions, **fields}


EVERY_KIND = {
    "override": [rule("o", "override")],
    "content": [rule("c", "content", pattern="tea")],
    "room": [rule("!other:x", "other room"), rule(ROOM, "room")],
    "sender": [rule(ALICE, "sender")],
    "underride": [rule("u", "underride")],
}


def test_kinds_are_asked_in_order() -> None:
    ruleset: dict[str, Any] = dict(EVERY_KIND)
    for kind in KINDS:
        actions = for_bob(event({"body": "tea time"}), ruleset)
        assert actions is not None
        assert actions.tweaks == {"sound": kind}
        ruleset[kind] = [{**one, "enabled": False} for one in ruleset[kind]]
    assert for_bob(event({"body": "tea time"}), ruleset) is None


def test_within_a_kind_the_first_that_matches_decides() -> None:
    tea, time = rule("1", "tea", pattern="tea"), rule("2", "time", pattern="time")
    pushed = event({"body": "It's time for tea"})
    for order in ([tea, time], [time, tea]):
        actions = for_bob(pushed, {"content": order})
        assert actions is not None
        assert actions.tweaks["sound"] == order[0]["actions"][1]["value"]


def test_actions_of_old_clients_mean_nothing_and_highlights_default_to_true() -> None:
    def acting(*actions: Any) -> PushActions | None:
        return for_bob(event(), {"override": [{**rule("r", ""), "actions": list(actions)}]})

    assert acting("dont_notify") == acting() == acting("coalesce") == SILENT
    assert acting("notify", "coalesce") == PLAIN
    highlighted = acting("notify", {"set_tweak": "highlight"})
    assert highlighted == HIGHLIGHT
    assert highlighted is not None
    assert highlighted.highlight
    plain = acting("notify", {"set_tweak": "highlight", "value": False})
    assert plain is not None
    assert not plain.highlight
    assert plain.to_json() == ["notify", {"set_tweak": "highlight", "value": False}]


@pytest.mark.parametrize(
    "ruleset",
    [
        {},
        {"override": "x", "content": None},
        {"override": [1, {}, {"conditions": 1, "enabled": True}]},
        {"content": [{"pattern": 1}, {"enabled": True}]},
        {"room": [{}], "sender": [{"rule_id": ALICE, "actions": 1, "enabled": "yes"}]},
    ],
)
def test_rules_that_make_no_sense_match_nothing_and_break_nothing(ruleset: Any) -> None:
    assert for_bob(event({"body": "x"}), ruleset) in (None, SILENT)


# --- groups


def test_rules_that_mean_the_same_are_equal_whoever_has_them() -> None:
    bob, carol = default_ruleset(BOB), default_ruleset(CAROL)
    assert compile_rules(bob) == compile_rules(carol)
    assert len({compile_rules(bob), compile_rules(carol)}) == 1
    for change in (
        set_enabled(bob, "underride", ".m.rule.message", enabled=False),
        set_actions(bob, "underride", ".m.rule.message", []),
        put_rule(bob, "room", ROOM, {"actions": []}),
        put_rule(bob, "sender", ALICE, {"actions": []}),
        put_rule(bob, "content", "x", {"actions": [], "pattern": "x"}),
        put_rule(bob, "override", "x", {"actions": []}),
    ):
        assert compile_rules(change) != compile_rules(carol)


USERS = [UserID(f"@user{number}:a.test") for number in range(4)]
EVENTS = st.builds(
    lambda mentioned, sender, state_key, body: event(
        {"m.mentions": {"user_ids": mentioned}, "body": body, "membership": "invite"},
        "m.room.message" if state_key is None else "m.room.member",
        sender=sender,
        **({} if state_key is None else {"state_key": state_key}),
    ),
    st.lists(st.sampled_from([*USERS, ALICE, 1])),
    st.sampled_from([*USERS, ALICE]),
    st.none() | st.sampled_from(USERS),
    st.sampled_from(["hello", "hello one", "two, one"]),
)
NAMES = st.dictionaries(st.sampled_from(USERS), st.sampled_from(["one", "two", "three"]))


@given(EVENTS, st.booleans(), NAMES)
def test_a_group_is_judged_as_its_members_would_be_one_by_one(
    pushed: PushEvent, with_names: bool, names: dict[UserID, str]
) -> None:
    def ruleset_of(user_id: UserID) -> Any:
        body = {"conditions": [{"kind": "contains_display_name"}], "actions": ["notify"]}
        own = default_ruleset(user_id)
        return put_rule(own, "override", "named", body) if with_names else own

    group = compile_rules(ruleset_of(USERS[0]))
    common, exceptions = evaluate_group(group, pushed, set(USERS), names.get)
    for user_id in USERS:
        rules = compile_rules(ruleset_of(user_id))
        assert rules == group
        alone = evaluate(rules, pushed, Viewer(user_id, names.get(user_id)))
        assert exceptions.get(user_id, common) == alone
        assert user_id not in exceptions or exceptions[user_id] != common
