"""Power levels: defaults, creators, and the odd spellings of old rooms."""

from typing import Any

import pytest

from yizhan_server.protocol.power_levels import (
    CREATOR_LEVEL,
    PowerLevels,
    creators_of,
    parse_level,
    read_power_levels,
)
from yizhan_server.protocol.room_version import V1, V5, V6, V9, V10, V11, V12, RoomVersion
from yizhan_testing.protocol_room import ALICE, ALL_VERSIONS, BOB, CAROL, ProtocolRoom, versions


def levels_of(room: ProtocolRoom) -> PowerLevels:
    return read_power_levels(room.state, room.version)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_without_power_levels_only_the_creator_has_any(version: RoomVersion) -> None:
    levels = levels_of(ProtocolRoom(version))
    assert levels.of_user(ALICE) == (CREATOR_LEVEL if version is V12 else 100)
    assert levels.of_user(BOB) == 0
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (50, 50, 50, 0)
    assert levels.to_send("m.room.name", is_state=True) == 50
    assert levels.to_send("m.room.message", is_state=False) == 0
    assert levels.to_notify("room") == 50


@pytest.mark.parametrize("version", versions(1, 11))
def test_with_power_levels_the_creator_is_like_everybody(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_levels(users={BOB: 7}, users_default=3)
    levels = levels_of(room)
    assert (levels.of_user(ALICE), levels.of_user(BOB), levels.of_user(CAROL)) == (3, 7, 3)


def test_creators_stay_above_all_levels() -> None:
    room = ProtocolRoom(V12, create_content={"additional_creators": [BOB]})
    room.put_levels(users={CAROL: 2**53 - 1}, ban=2**53 - 1)
    levels = levels_of(room)
    assert levels.of_user(ALICE) == levels.of_user(BOB) > levels.of_user(CAROL) == levels.ban
    assert creators_of(room.create) == {ALICE, BOB}


def test_additional_creators_mean_nothing_before_version_12() -> None:
    room = ProtocolRoom(V11, create_content={"additional_creators": [BOB]})
    assert levels_of(room).of_user(BOB) == 0


def test_up_to_version_10_the_creator_is_the_one_in_the_content() -> None:
    room = ProtocolRoom(V10, create_content={"creator": BOB})
    assert levels_of(room).of_user(BOB) == 100
    assert levels_of(room).of_user(ALICE) == 0


def test_levels_of_types_and_notifications_fall_back_to_defaults() -> None:
    room = ProtocolRoom(V11)
    room.put_levels(
        events={"m.room.name": 10, "m.reaction": 1},
        events_default=2,
        state_default=60,
        notifications={"room": 20},
        ban=1,
        kick=2,
        redact=3,
        invite=4,
    )
    levels = levels_of(room)
    assert levels.to_send("m.room.name", is_state=True) == 10
    assert levels.to_send("m.reaction", is_state=False) == 1
    assert levels.to_send("m.room.topic", is_state=True) == 60
    assert levels.to_send("m.room.message", is_state=False) == 2
    assert levels.to_notify("room") == 20
    assert levels.to_notify("other") == 50
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("100", 100),
        ("000100", 100),
        ("+100", 100),
        ("-100", -100),
        (" 00100 ", 100),
        ("\t+7\n", 7),
        ("1.0", None),
        ("1e3", None),
        ("", None),
        ("--1", None),
        ("1_000", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_strings_are_levels_up_to_version_9(value: str, level: int | None) -> None:
    assert parse_level(value, V1) == parse_level(value, V9) == level
    assert parse_level(value, V10) is None


def test_floats_are_levels_up_to_version_5_and_are_truncated() -> None:
    assert parse_level(50.57, V5) == 50
    assert parse_level(-50.57, V5) == -50
    assert parse_level(5.114698e4, V1) == 51146
    assert parse_level(float("inf"), V1) is None
    assert parse_level(float("nan"), V1) is None
    assert parse_level(50.57, V6) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("value", [None, True, False, [], {}, "x"])
def test_what_is_no_level_counts_as_absent(version: RoomVersion, value: Any) -> None:
    assert parse_level(value, version) is None
    room = ProtocolRoom(version, creator=CAROL)
    room.put_levels(
        users={ALICE: value}, users_default=value, ban=value, events={"x": value}, notifications=[]
    )
    levels = levels_of(room)
    assert (levels.of_user(ALICE), levels.ban, levels.to_notify("room")) == (0, 50, 50)
    assert levels.to_send("x", is_state=True) == 50
