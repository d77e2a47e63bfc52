"""Events: what is made can be read, and what has not the format of its room is dropped."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.canonical_json import MAX_INTEGER, NotCanonical, encode_canonical
from yizhan_server.protocol.errors import TooLarge
from yizhan_server.protocol.event import (
    MAX_PDU_BYTES,
    InvalidPdu,
    Pdu,
    build_pdu,
    parse_pdu,
    redact_pdu,
    trust_pdu,
    with_content_hash_checked,
)
from yizhan_server.protocol.hashes import event_id_of, has_right_content_hash
from yizhan_server.protocol.identifiers import EventID, RoomID, ServerName
from yizhan_server.protocol.room_version import V1, V10, V11, V12, RoomVersion
from yizhan_server.protocol.signing import check_event_signature
from yizhan_testing.protocol_room import ALICE, ALL_VERSIONS, BOB, ProtocolRoom, key_of, versions

SERVER = ServerName("a.test")
HASH_ID = EventID("$" + "x" * 43)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_an_event_that_we_make_is_one_that_others_accept(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    pdu = room.event("m.room.topic", ALICE, {"topic": "茶"}, "", auth_events=[room.create.event_id])
    assert parse_pdu(pdu.raw, version) == pdu
    assert trust_pdu(pdu.raw, version, pdu.event_id) == pdu
    assert event_id_of(pdu.raw, version) == pdu.event_id
    assert has_right_content_hash(pdu.raw, version)
    check_event_signature(pdu.raw, version, SERVER, {"ed25519:test": key_of(SERVER).verify_key})
    assert pdu.room_id == room.create.room_id
    assert pdu.auth_events == (room.create.event_id,)
    assert (pdu.is_state, pdu.key, pdu.state_key) == (True, ("m.room.topic", ""), "")
    assert pdu.membership is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_unsigned_is_no_part_of_an_event(version: RoomVersion) -> None:
    pdu = ProtocolRoom(version).event("m.room.message", ALICE, {"body": "hello"})
    received = {**pdu.raw, "unsigned": {"age": 5}}
    parsed = parse_pdu(received, version)
    assert parsed == pdu
    assert "unsigned" not in parsed.raw
    assert "unsigned" in received


def test_a_message_has_no_key() -> None:
    pdu = ProtocolRoom(V12).event("m.room.message", ALICE, {})
    assert not pdu.is_state
    with pytest.raises(ValueError, match="not a state event"):
        _ = pdu.key


def test_the_id_of_a_room_is_the_hash_of_its_create_event() -> None:
    create = ProtocolRoom(V12).create
    assert create.room_id == "!" + create.event_id[1:]
    assert "room_id" not in create.raw
    assert parse_pdu(create.raw, V12).room_id == create.room_id


def test_in_older_rooms_the_create_event_names_the_room() -> None:
    assert ProtocolRoom(V11).create.raw["room_id"] == "!room:a.test"


def build(version: RoomVersion = V12, **changes: Any) -> Pdu:
    arguments: dict[str, Any] = {
        "type": "m.room.message",
        "sender": ALICE,
        "state_key": None,
        "content": {},
        "room_id": RoomID("!" + "r" * 43) if version is V12 else RoomID("!r:a.test"),
        "origin_server_ts": 1,
        "depth": 1,
        "prev_events": [HASH_ID],
        "auth_events": [],
        "server_name": SERVER,
        "signing_key": key_of(SERVER),
        **changes,
    }
    return build_pdu(version, **arguments)


def test_what_a_redaction_redacts_stands_where_its_room_version_says() -> None:
    old = build(V10, type="m.room.redaction", redacts=HASH_ID, content={"reason": "r"})
    assert old.redacts == old.raw["redacts"] == HASH_ID
    assert old.content == {"reason": "r"}
    content = {"reason": "r"}
    new = build(V11, type="m.room.redaction", redacts=HASH_ID, content=content)
    assert new.redacts == new.content["redacts"] == HASH_ID
    assert "redacts" not in new.raw
    assert content == {"reason": "r"}
    misplaced = {**new.raw, "redacts": HASH_ID, "content": {}}
    assert parse_pdu(misplaced, V11).redacts is None
    assert build(content={"redacts": HASH_ID}).redacts is None  # of a message it means nothing


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"content": {"number": 1.5}}, NotCanonical),
        ({"content": {"number": 2**60}}, NotCanonical),
        ({"content": {"text": "\ud800"}}, NotCanonical),
        ({"type": "\ud800"}, NotCanonical),
        ({"type": "\ud800" * 100}, InvalidPdu),
        ({"type": "t" * 256}, InvalidPdu),
        ({"state_key": "键" * 86}, InvalidPdu),
        ({"prev_events": [HASH_ID] * 21}, InvalidPdu),
        ({"auth_events": [HASH_ID] * 11}, InvalidPdu),
        ({"room_id": None}, InvalidPdu),
        ({"type": "m.room.create", "state_key": ""}, InvalidPdu),
        ({"content": {"body": "b" * MAX_PDU_BYTES}}, TooLarge),
    ],
)
def test_events_that_no_room_allows_are_not_made(changes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        build(**changes)


@pytest.mark.parametrize("target", [1, None, "", "$x", "$" + "x" * 255, ["$x:a.test"]])
def test_what_cannot_be_an_event_is_not_redacted(target: Any) -> None:
    pdu = build(type="m.room.redaction", content={"redacts": target})
    assert pdu.redacts is None
    assert parse_pdu(pdu.raw, V12).content == {"redacts": target}


def test_versions_1_and_2_need_to_be_told_ids_and_hashes() -> None:
    right = {"event_id": EventID("$1:a.test"), "reference_hashes": {HASH_ID: b"h" * 32}}
    assert build(V1, **right).raw["prev_events"] == [[HASH_ID, {"sha256": "aGho" * 10 + "aGg"}]]
    for missing in right:
        with pytest.raises(InvalidPdu):
            build(V1, **{key: value for key, value in right.items() if key != missing})


def test_an_event_may_have_65536_bytes_and_not_one_more() -> None:
    overhead = len(encode_canonical(build(content={"body": ""}).raw))
    largest = build(content={"body": "b" * (MAX_PDU_BYTES - overhead)})
    assert len(encode_canonical(largest.raw)) == MAX_PDU_BYTES
    assert parse_pdu(largest.raw, V12) == largest
    with pytest.raises(TooLarge):
        build(content={"body": "b" * (MAX_PDU_BYTES - overhead + 1)})
    with pytest.raises(InvalidPdu):
        parse_pdu({**largest.raw, "x": 1}, V12)


def test_a_type_and_a_state_key_may_have_255_bytes() -> None:
    pdu = build(type="t" * 255, state_key="键" * 85)
    assert parse_pdu(pdu.raw, V12) == pdu


def test_depth_ends_at_its_limit() -> None:
    assert build(depth=2**53).depth == MAX_INTEGER
    numbers = {"event_id": EventID("$1:a.test"), "prev_events": []}
    assert build(V1, depth=2**64, **numbers).depth == 2**63 - 1


Change = Callable[[dict[str, Any]], object]


def setting(key: str, value: Any) -> Change:
    return lambda raw: raw.update({key: value})


def removing(key: str) -> Change:
    return lambda raw: raw.pop(key)


REQUIRED = (
    "type",
    "sender",
    "content",
    "room_id",
    "origin_server_ts",
    "depth",
    "prev_events",
    "auth_events",
    "hashes",
    "signatures",
)


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("key", REQUIRED)
def test_every_field_must_be_there_and_of_its_type(version: RoomVersion, key: str) -> None:
    room = ProtocolRoom(version)
    raw = room.event("m.room.message", ALICE, {}).raw
    parse_pdu(raw, version)
    with pytest.raises(InvalidPdu):
        parse_pdu({k: v for k, v in raw.items() if k != key}, version)
    odd: list[Any] = [None, True, 1.0, [[]], {"sha256": 1}, {"a": {"b": 1}}, "\0"]
    for wrong in odd:
        if key in {"type", "content"} and isinstance(wrong, str | dict):
            continue  # those are right
        with pytest.raises(InvalidPdu):
            parse_pdu({**raw, key: wrong}, version)


@pytest.mark.parametrize(
    "change",
    [
        setting("type", "t" * 256),
        setting("state_key", "s" * 256),
        setting("state_key", None),
        setting("state_key", 1),
        setting("sender", "alice"),
        setting("sender", "@" + "a" * 255 + ":a.test"),
        setting("room_id", "!room"),
        setting("depth", -1),
        setting("depth", 2**63),
        setting("origin_server_ts", 2**63),
        setting("origin_server_ts", "1"),
        setting("prev_events", [1]),
        setting("prev_events", ["x"]),
        setting("prev_events", [["$x:a.test"]]),
        setting("prev_events", [["$x:a.test", "hash"]]),
        setting("prev_events", [HASH_ID] * 21),
        setting("auth_events", [HASH_ID] * 11),
        setting("signatures", {"a.test": {"ed25519:1": 1}}),
        setting("signatures", {"a.test": []}),
        setting("hashes", {"md5": "x"}),
    ],
)
@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_malformed_field_is_refused_in_every_version(
    version: RoomVersion, change: Change
) -> None:
    raw = dict(ProtocolRoom(version).event("m.room.message", ALICE, {}).raw)
    change(raw)
    with pytest.raises(InvalidPdu):
        parse_pdu(raw, version)


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(
    "content", [{"n": 1.5}, {"n": 2**53}, {"n": [{"m": -(2**70)}]}], ids=["float", "big", "huge"]
)
def test_only_old_rooms_hold_numbers_that_are_not_canonical(
    version: RoomVersion, content: dict[str, Any]
) -> None:
    raw = ProtocolRoom(version).event("m.room.message", ALICE, {}).raw
    raw = {**raw, "content": content}
    if version in versions(6):
        with pytest.raises(InvalidPdu):
            parse_pdu(raw, version)
    else:
        assert parse_pdu(raw, version).content == content


@pytest.mark.parametrize("version", versions(3))
def test_an_event_id_on_the_wire_is_refused_where_it_is_a_hash(version: RoomVersion) -> None:
    pdu = ProtocolRoom(version).event("m.room.message", ALICE, {})
    with pytest.raises(InvalidPdu):
        parse_pdu({**pdu.raw, "event_id": pdu.event_id}, version)


@pytest.mark.parametrize("version", versions(1, 2))
def test_an_event_id_on_the_wire_is_required_where_it_is_none(version: RoomVersion) -> None:
    raw = dict(ProtocolRoom(version).event("m.room.message", ALICE, {}).raw)
    for wrong in (None, 1, "x", "$x"):
        with pytest.raises(InvalidPdu):
            parse_pdu({**raw, "event_id": wrong}, version)
    del raw["event_id"]
    with pytest.raises(InvalidPdu):
        parse_pdu(raw, version)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_wrong_content_hash_leaves_the_redacted_event(version: RoomVersion) -> None:
    pdu = ProtocolRoom(version).event("m.room.message", BOB, {"body": "hello"})
    assert with_content_hash_checked(pdu, version) is pdu
    altered = parse_pdu({**pdu.raw, "content": {"body": "evil"}}, version)
    left = with_content_hash_checked(altered, version)
    assert left == redact_pdu(pdu, version)
    assert (left.content, left.event_id, left.sender) == ({}, pdu.event_id, BOB)


@pytest.mark.parametrize("odd", [None, [], "unsigned", 1, True])
def test_what_is_no_object_is_no_event(odd: Any) -> None:
    for version in ALL_VERSIONS:
        with pytest.raises(InvalidPdu):
            parse_pdu(odd, version)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(ALL_VERSIONS), st.dictionaries(st.sampled_from(REQUIRED), ODD))
def test_odd_input_is_an_event_or_refused_and_nothing_else(
    version: RoomVersion, changes: dict[str, Any]
) -> None:
    raw = ProtocolRoom(version).event("m.room.message", ALICE, {}).raw | changes
    try:
        pdu = parse_pdu(raw, version)
    except InvalidPdu:
        return
    assert pdu.content == raw["content"]
    assert redact_pdu(pdu, version).event_id == pdu.event_id
