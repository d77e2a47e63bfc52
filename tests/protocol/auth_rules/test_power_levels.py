"""The rules about `m.room.power_levels` (9 or 10, by version), in the specification's order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.power_levels import LEVEL_DEFAULTS, read_power_levels
from yizhan_server.protocol.room_version import V5, V9, V10, V11, V12, RoomVersion
from yizhan_testing.protocol_room import ALICE, ALL_VERSIONS, BOB, CAROL, ProtocolRoom, versions

DAVE = UserID("@dave:a.test")  # has created the rooms of these tests, and is not in them


def room_with(version: RoomVersion, **content: Any) -> ProtocolRoom:
    """Return a room where Bob has level 50, and whatever else `content` sets."""
    room = ProtocolRoom(version, creator=DAVE)
    for user_id in (ALICE, BOB, CAROL):
        room.put_member(user_id, "join")
    room.put_levels(**{"users": {BOB: 50}, **content})
    return room


def change(room: ProtocolRoom, **content: Any) -> Pdu:
    """Return Bob's attempt to change these keys of the present levels; None removes one."""
    merged = {**room.state["m.room.power_levels", ""].content, **content}
    left = {key: value for key, value in merged.items() if value is not None}
    return room.event("m.room.power_levels", BOB, left, "")


def first_levels(version: RoomVersion, **content: Any) -> tuple[ProtocolRoom, Pdu]:
    room = ProtocolRoom(version)
    room.put_member(ALICE, "join")
    return room, room.event("m.room.power_levels", ALICE, content, "")


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("name", [*LEVEL_DEFAULTS, "events", "notifications"])
@pytest.mark.parametrize("value", ["50", 1.0, True, None, [50], "x"])
def test_since_version_10_levels_are_integers(version: RoomVersion, name: str, value: Any) -> None:
    if isinstance(value, float) and version in versions(6):
        return  # no event
    is_table = name in ("events", "notifications")
    room, event = first_levels(version, **{name: {"t": value} if is_table else value})
    expected = "power_levels.not_integer" if version in versions(10) else None
    assert room.refusal_of(event) == expected
    if is_table:
        room, event = first_levels(version, **{name: value})
        assert room.refusal_of(event) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_integers_are_levels_in_every_version(version: RoomVersion) -> None:
    room, event = first_levels(
        version, **LEVEL_DEFAULTS, events={"t": 1}, notifications={"room": -1}, users={BOB: 5}
    )
    assert room.refusal_of(event) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(
    "users",
    [[], "x", None, {"bob": 1}, {"@bob": 1}, {"@b:c d": 1}, {BOB: None}, {BOB: True}, {BOB: "x"}],
)
def test_users_map_user_ids_to_levels(version: RoomVersion, users: Any) -> None:
    room, event = first_levels(version, users=users)
    assert room.refusal_of(event) == "power_levels.users"


def test_users_may_have_odd_levels_in_old_versions_only() -> None:
    for version, level, expected in (
        (V9, " +50 ", None),
        (V10, "50", "power_levels.users"),
        (V5, 50.5, None),
    ):
        room, event = first_levels(version, users={"@Historical name:b.test": level})
        assert room.refusal_of(event) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_since_version_12_creators_are_not_listed(version: RoomVersion) -> None:
    room = ProtocolRoom(version, create_content={"additional_creators": [BOB]})
    room.put_member(ALICE, "join")
    expected = "power_levels.creator_listed" if version is V12 else None
    for creator in (ALICE, BOB):
        event = room.event("m.room.power_levels", ALICE, {"users": {creator: 100}}, "")
        assert room.refusal_of(event) == expected
    event = room.event("m.room.power_levels", ALICE, {"users": {CAROL: 100}}, "")
    assert room.refusal_of(event) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_first_levels_may_be_anything(version: RoomVersion) -> None:
    room, event = first_levels(version, users={BOB: 1000}, ban=1000, events={"t": 1000})
    assert room.refusal_of(event) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("name", list(LEVEL_DEFAULTS))
def test_a_property_is_altered_within_the_senders_level(version: RoomVersion, name: str) -> None:
    # state_default must not keep Bob from sending the event at all.
    events = {"m.room.power_levels": 50}
    for old, new, expected in (
        (50, 0, None),
        (0, 50, None),
        (None, 50, None),
        (50, None, None),
        (51, 50, "power_levels.above_sender"),
        (51, None, "power_levels.above_sender"),
        (50, 51, "power_levels.grants_too_much"),
        (None, 51, "power_levels.grants_too_much"),
        (51, 51, None),
    ):
        room = room_with(version, events=events, **({} if old is None else {name: old}))
        assert room.refusal_of(change(room, **{name: new})) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("table", ["events", "notifications"])
def test_tables_are_altered_within_the_senders_level(version: RoomVersion, table: str) -> None:
    is_checked = table == "events" or version in versions(6)
    for old, new, expected in (
        ({"t": 50}, {}, None),
        ({}, {"t": 50}, None),
        ({"t": 50}, {"t": 0}, None),
        ({"t": 51}, {"t": 51}, None),
        ({"t": 51}, {"t": 51, "u": 50}, None),
        ({"t": 51}, {"t": 50}, "power_levels.above_sender"),
        ({"t": 51}, {}, "power_levels.above_sender"),
        ({"t": 51}, None, "power_levels.above_sender"),
        ({"t": 50}, {"t": 51}, "power_levels.grants_too_much"),
        ({}, {"t": 51}, "power_levels.grants_too_much"),
    ):
        room = room_with(version, **{table: old})
        refusal = room.refusal_of(change(room, **{table: new}))
        assert refusal == (expected if is_checked else None)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_users_are_altered_within_the_senders_level(version: RoomVersion) -> None:
    for old, new, expected in (
        ({BOB: 50}, {BOB: 50, CAROL: 50}, None),
        ({BOB: 50, CAROL: 49}, {BOB: 50}, None),
        ({BOB: 50, CAROL: 49}, {BOB: 50, CAROL: 50}, None),
        ({BOB: 50, CAROL: 50}, {BOB: 50, CAROL: 50, ALICE: 1}, None),
        ({BOB: 50, CAROL: 50}, {BOB: 50, CAROL: 49}, "power_levels.not_above_target"),
        ({BOB: 50, CAROL: 50}, {BOB: 50}, "power_levels.not_above_target"),
        ({BOB: 50, CAROL: 51}, {BOB: 50, CAROL: 0}, "power_levels.not_above_target"),
        ({BOB: 50}, {BOB: 50, CAROL: 51}, "power_levels.grants_too_much"),
        ({BOB: 50}, {BOB: 51}, "power_levels.grants_too_much"),
        ({BOB: 50}, {BOB: 49}, None),
        ({BOB: 50}, {}, None),
    ):
        room = room_with(version, users=old)
        assert room.refusal_of(change(room, users=new)) == expected


def test_creators_give_and_take_everything() -> None:
    room = ProtocolRoom(V12)
    room.put_member(ALICE, "join")
    room.put_levels(users={BOB: 2**53 - 1, CAROL: 100}, ban=2**53 - 1)
    event = room.event("m.room.power_levels", ALICE, {"users": {BOB: 0}, "kick": 2**53 - 1}, "")
    assert room.refusal_of(event) is None


@pytest.mark.parametrize("version", versions(1, 9))
@pytest.mark.parametrize("value", [True, "x", None, []])
def test_in_old_versions_a_change_to_what_nobody_can_read_is_refused(
    version: RoomVersion, value: Any
) -> None:
    room = room_with(version, events={"t": 1})
    unreadable = room.event(
        "m.room.power_levels", BOB, {"users": {BOB: 50}, "events": {"t": value}}, ""
    )
    assert room.refusal_of(unreadable) == "power_levels.not_integer"


def test_strings_that_mean_the_same_are_no_change() -> None:
    room = room_with(V9, ban="0100", users={BOB: "50", CAROL: " 50"})
    assert room.refusal_of(change(room, ban=100, users={BOB: 50, CAROL: 50})) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_levels_are_changed_only_by_who_may_send_the_event(version: RoomVersion) -> None:
    room = room_with(version, users={BOB: 49})
    assert room.refusal_of(change(room, ban=0)) == "level.too_low"


LEVELS = st.sampled_from([0, 25, 50, 75, 100])
CONTENT = st.fixed_dictionaries(
    {"users": st.dictionaries(st.sampled_from([ALICE, BOB, CAROL]), LEVELS)},
    optional={
        **dict.fromkeys(LEVEL_DEFAULTS, LEVELS),
        "events": st.dictionaries(st.sampled_from(["m.room.power_levels", "t"]), LEVELS),
    },
)


@given(
    st.sampled_from([V5, V11, V12]),
    CONTENT,
    st.lists(st.tuples(st.sampled_from([ALICE, BOB, CAROL]), CONTENT), max_size=15),
)
def test_whatever_is_tried_nobody_rises_above_who_raised_them(
    version: RoomVersion, start: dict[str, Any], attempts: list[tuple[UserID, dict[str, Any]]]
) -> None:
    room = room_with(version, **start)
    for sender, content in attempts:
        before = read_power_levels(room.state, version)
        event = room.event("m.room.power_levels", sender, content, "")
        if room.refusal_of(event) is not None:
            continue
        room.put(event)
        after = read_power_levels(room.state, version)
        limit = before.of_user(sender)
        for user_id in (ALICE, BOB, CAROL):
            old, new = before.of_user(user_id), after.of_user(user_id)
            assert new <= max(old, limit, before.of_user("@new:x"), after.of_user("@new:x"))
            listed = user_id in room.state["m.room.power_levels", ""].content["users"]
            if new < old and user_id != sender and listed:
                assert old < limit or old == before.of_user("@new:x")
