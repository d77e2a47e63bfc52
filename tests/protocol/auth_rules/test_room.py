"""The rules about the room as a whole, and those for ordinary events (3, 4, 6 to 9, 11)."""

import pytest

from yizhan_server.protocol.auth_rules import may_redact
from yizhan_server.protocol.event import parse_pdu
from yizhan_server.protocol.identifiers import EventID, UserID
from yizhan_server.protocol.power_levels import read_power_levels
from yizhan_server.protocol.room_version import V11, V12, RoomVersion
from yizhan_testing.protocol_room import (
    ALICE,
    ALL_VERSIONS,
    BOB,
    CAROL,
    ProtocolRoom,
    versions,
)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_nothing_happens_in_a_room_that_was_never_created(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_member(ALICE, "join")
    message = room.event("m.room.message", ALICE, {})
    assert room.refusal_of(message) is None
    del room.state["m.room.create", ""]
    assert room.refusal_of(message) == "room.no_create"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_create_event_is_that_of_the_room(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_member(ALICE, "join")
    message = room.event("m.room.message", ALICE, {})
    room.put(ProtocolRoom(version, creator=BOB).create)
    assert room.refusal_of(message) == "room.other_create"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_room_may_be_closed_to_other_servers(version: RoomVersion) -> None:
    for federate, expected in ((False, "room.not_federated"), (True, None), ("false", None)):
        room = ProtocolRoom(version, create_content={"m.federate": federate})
        room.put_member(ALICE, "join")
        room.put_member(BOB, "join")
        assert room.refusal_of(room.event("m.room.message", ALICE, {})) is None
        assert room.refusal_of(room.event("m.room.message", BOB, {})) == expected
        room.put_join_rule("public")
        assert room.refusal_of(room.member_event(CAROL, "join")) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_only_members_send(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    message = room.event("m.room.message", BOB, {})
    assert room.refusal_of(message) == "sender.not_joined"
    for membership in ("invite", "leave", "ban", "knock"):
        room.put_member(BOB, membership)
        assert room.refusal_of(message) == "sender.not_joined"
    room.put_member(BOB, "join")
    assert room.refusal_of(message) is None


@pytest.mark.parametrize("version", versions(1, 5))
def test_up_to_version_5_a_server_lists_its_aliases_member_or_not(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    assert room.refusal_of(room.event("m.room.aliases", BOB, {}, "b.test")) is None
    assert (
        room.refusal_of(room.event("m.room.aliases", BOB, {}, "a.test"))
        == "aliases.of_another_server"
    )
    assert room.refusal_of(room.event("m.room.aliases", BOB, {})) == "aliases.no_state_key"


@pytest.mark.parametrize("version", versions(6))
def test_since_version_6_aliases_are_like_other_state(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    aliases = room.event("m.room.aliases", BOB, {}, "b.test")
    assert room.refusal_of(aliases) == "sender.not_joined"
    room.put_member(BOB, "join")
    assert room.refusal_of(aliases) == "level.too_low"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_third_party_invites_need_the_invite_level_only(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_member(BOB, "join")
    invite = room.event("m.room.third_party_invite", BOB, {}, "token")
    room.put_levels(users={BOB: 10}, invite=10, state_default=100)
    assert room.refusal_of(invite) is None
    room.put_levels(users={BOB: 9}, invite=10, state_default=0)
    assert room.refusal_of(invite) == "third_party_invite.level"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_an_event_needs_the_level_of_its_type(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_member(BOB, "join")
    message = room.event("m.room.message", BOB, {})
    topic = room.event("m.room.topic", BOB, {}, "")
    room.put_levels(users={BOB: 10}, events_default=10, state_default=11)
    assert room.refusal_of(message) is None
    assert room.refusal_of(topic) == "level.too_low"
    room.put_levels(users={BOB: 10}, events={"m.room.message": 11, "m.room.topic": 10})
    assert room.refusal_of(message) == "level.too_low"
    assert room.refusal_of(topic) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_state_key_that_is_a_user_id_is_that_users(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_member(BOB, "join")
    room.put_levels(users={BOB: 100})
    for state_key, expected in (
        (BOB, None),
        (CAROL, "state_key.of_another_user"),
        ("@", "state_key.of_another_user"),
        ("carol", None),
        ("", None),
    ):
        assert room.refusal_of(room.event("org.example", BOB, {}, state_key)) == expected


@pytest.mark.parametrize("version", versions(1, 2))
def test_in_versions_1_and_2_a_redaction_needs_the_level_or_the_same_server(
    version: RoomVersion,
) -> None:
    room = ProtocolRoom(version)
    room.put_member(BOB, "join")
    own = room.event("m.room.redaction", BOB, {}, redacts=EventID("$x:b.test"))
    others = room.event("m.room.redaction", BOB, {}, redacts=EventID("$x:a.test"))
    nothing = room.event("m.room.redaction", BOB, {})
    room.put_levels(users={BOB: 49})
    assert room.refusal_of(own) is None
    assert room.refusal_of(others) == "redaction.not_permitted"
    assert room.refusal_of(nothing) == "redaction.not_permitted"
    room.put_levels(users={BOB: 50})
    assert room.refusal_of(others) is None


@pytest.mark.parametrize("version", versions(3))
def test_since_version_3_everybody_may_ask_for_a_redaction(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_member(BOB, "join")
    redaction = room.event("m.room.redaction", BOB, {}, redacts=EventID("$" + "x" * 43))
    assert room.refusal_of(redaction) is None
    room.put_levels(events={"m.room.redaction": 1})
    assert room.refusal_of(redaction) == "level.too_low"


@pytest.mark.parametrize("version", versions(3))
def test_since_version_3_it_is_applied_for_moderators_and_the_same_server(
    version: RoomVersion,
) -> None:
    room = ProtocolRoom(version)
    of_alice = room.event("m.room.message", ALICE, {})
    of_bob = room.event("m.room.message", BOB, {})
    room.put_levels(users={CAROL: 50})
    levels = read_power_levels(room.state, version)

    def applies(sender: UserID, target: EventID) -> bool:
        redaction = room.event("m.room.redaction", sender, {}, redacts=target)
        return may_redact(redaction, of_alice, levels)

    assert applies(CAROL, of_alice.event_id)
    assert applies(UserID("@other:a.test"), of_alice.event_id)
    assert not applies(BOB, of_alice.event_id)
    assert not applies(CAROL, of_bob.event_id)


def test_a_redaction_reaches_no_other_room() -> None:
    room, other = ProtocolRoom(V11), ProtocolRoom(V11, creator=BOB)
    room.put_levels(users={ALICE: 100})
    target = other.event("m.room.message", BOB, {})
    redaction = room.event("m.room.redaction", ALICE, {}, redacts=target.event_id)
    assert not may_redact(redaction, target, read_power_levels(room.state, V11))


def test_the_sender_of_the_create_event_decides_which_servers_are_others() -> None:
    room = ProtocolRoom(V12, creator=BOB, create_content={"m.federate": False})
    room.put_member(BOB, "join")
    room.put_member(ALICE, "join")
    assert room.refusal_of(room.event("m.room.message", BOB, {})) is None
    assert room.refusal_of(room.event("m.room.message", ALICE, {})) == "room.not_federated"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_what_was_made_elsewhere_is_judged_like_our_own(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    room.put_member(ALICE, "join")
    received = parse_pdu(room.event("m.room.message", ALICE, {}).raw, version)
    assert room.refusal_of(received) is None
