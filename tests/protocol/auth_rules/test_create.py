"""Rule 1 of every room version: the create event."""

from typing import Any

import pytest

from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import V12, RoomVersion
from yizhan_testing.protocol_room import ALICE, ALL_VERSIONS, BOB, ProtocolRoom, versions


def create_with(room: ProtocolRoom, **content: Any) -> Pdu:
    return ProtocolRoom(room.version, create_content=content).create


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_create_event_is_allowed(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    assert room.refusal_of(room.create) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_it_has_no_prev_events(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    references: list[Any] = [EventID("$" + "p" * 43)]
    if version.references_carry_hashes:
        references = [["$p:a.test", {"sha256": "x"}]]
    second = parse_pdu({**room.create.raw, "prev_events": references}, version)
    assert room.refusal_of(second) == "create.has_prev_events"


@pytest.mark.parametrize("version", versions(1, 11))
def test_the_room_is_of_the_senders_server(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    foreign = parse_pdu({**room.create.raw, "sender": BOB}, version)
    assert room.refusal_of(foreign) == "create.room_of_another_server"


def test_in_version_12_it_names_no_room() -> None:
    room = ProtocolRoom(V12)
    named = parse_pdu({**room.create.raw, "room_id": room.room_id}, V12)
    assert room.refusal_of(named) == "create.has_room_id"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_room_version_is_one_that_we_know(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    for unknown in ("0", "13", "org.example", 1, None, ["1"]):
        event = create_with(room, room_version=unknown)
        assert room.refusal_of(event) == "create.unknown_room_version"
    raw = room.create.raw
    content = {key: value for key, value in raw["content"].items() if key != "room_version"}
    assert room.refusal_of(parse_pdu({**raw, "content": content}, version)) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_up_to_version_10_the_content_names_the_creator(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    anonymous = parse_pdu({**room.create.raw, "content": {}}, version)
    expected = "create.no_creator" if version in versions(1, 10) else None
    assert room.refusal_of(anonymous) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("creators", ["@bob:b.test", None, {}, [1], [BOB, "bob"], [BOB, "@b"]])
def test_since_version_12_additional_creators_are_a_list_of_user_ids(
    version: RoomVersion, creators: Any
) -> None:
    room = ProtocolRoom(version)
    refusal = room.refusal_of(create_with(room, additional_creators=creators))
    assert refusal == ("create.additional_creators" if version is V12 else None)


@pytest.mark.parametrize("creators", [[], [BOB], [ALICE, BOB], ["@Historical Name:b.test"]])
def test_well_formed_additional_creators_are_allowed(creators: list[str]) -> None:
    room = ProtocolRoom(V12)
    assert room.refusal_of(create_with(room, additional_creators=creators)) is None
