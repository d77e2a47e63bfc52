"""Redaction in each room version, against the specification's lists of keys."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.redaction import redact, redact_content
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_testing.protocol_room import ALL_VERSIONS, versions

ALWAYS = {
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
}
UNTIL_10 = {"prev_state", "origin", "membership"}


def left_of(event_type: str, version: RoomVersion, **content: Any) -> dict[str, Any]:
    return redact_content(event_type, content, version)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_top_level_keys(version: RoomVersion) -> None:
    every = ALWAYS | UNTIL_10 | {"unsigned", "redacts", "age", "custom"}
    redacted = redact({key: {} for key in every}, version)
    assert set(redacted) == (ALWAYS | UNTIL_10 if version in versions(1, 10) else ALWAYS)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_absent_keys_stay_absent_but_content_is_always_there(version: RoomVersion) -> None:
    assert redact({"type": "m.room.message"}, version) == {"type": "m.room.message", "content": {}}


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_original_is_left_alone(version: RoomVersion) -> None:
    raw = {"type": "m.room.message", "content": {"body": "secret"}, "unsigned": {}}
    redact(raw, version)
    assert raw == {"type": "m.room.message", "content": {"body": "secret"}, "unsigned": {}}


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_messages_lose_everything(version: RoomVersion) -> None:
    assert left_of("m.room.message", version, body="secret", membership="join") == {}


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_members(version: RoomVersion) -> None:
    expected: dict[str, Any] = {"membership": "join"}
    if version in versions(9):
        expected["join_authorised_via_users_server"] = "@a:b"
    if version in versions(11):
        expected["third_party_invite"] = {"signed": {"token": "t"}}
    left = left_of(
        "m.room.member",
        version,
        membership="join",
        displayname="secret",
        join_authorised_via_users_server="@a:b",
        third_party_invite={"signed": {"token": "t"}, "display_name": "secret"},
    )
    assert left == expected


@pytest.mark.parametrize("version", versions(11))
def test_a_third_party_invite_that_is_no_object_is_dropped(version: RoomVersion) -> None:
    assert left_of("m.room.member", version, third_party_invite="secret") == {}
    assert left_of("m.room.member", version, third_party_invite={"display_name": "secret"}) == {
        "third_party_invite": {}
    }


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_create(version: RoomVersion) -> None:
    content = {"creator": "@a:b", "room_version": "9", "m.federate": False}
    expected = content if version in versions(11) else {"creator": "@a:b"}
    assert left_of("m.room.create", version, **content) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_join_rules(version: RoomVersion) -> None:
    expected = {"join_rule": "restricted"} | ({"allow": [1]} if version in versions(8) else {})
    assert left_of("m.room.join_rules", version, join_rule="restricted", allow=[1], x=1) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_power_levels(version: RoomVersion) -> None:
    kept = dict.fromkeys(
        ("ban", "events", "events_default", "kick", "redact", "state_default", "users"), 1
    ) | {"users_default": 1}
    expected = kept | ({"invite": 1} if version in versions(11) else {})
    assert left_of("m.room.power_levels", version, **kept, invite=1, notifications=1) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_rest(version: RoomVersion) -> None:
    assert left_of("m.room.history_visibility", version, history_visibility="joined", x=1) == {
        "history_visibility": "joined"
    }
    assert left_of("m.room.aliases", version, aliases=["#a:b"], x=1) == (
        {"aliases": ["#a:b"]} if version in versions(1, 5) else {}
    )
    assert left_of("m.room.redaction", version, redacts="$x", reason="secret") == (
        {"redacts": "$x"} if version in versions(11) else {}
    )


@given(
    st.sampled_from(ALL_VERSIONS),
    st.dictionaries(
        st.sampled_from(["type", "content", "sender", "unsigned", "origin", "x"]),
        st.none() | st.text() | st.dictionaries(st.text(), st.integers()),
    ),
)
def test_redacting_twice_changes_nothing_more(version: RoomVersion, raw: dict[str, Any]) -> None:
    once = redact(raw, version)
    assert redact(once, version) == once
