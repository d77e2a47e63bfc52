"""Selection of auth events, sentence by sentence of the specification."""

from typing import Any

import pytest

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.room_version import V11, V12, RoomVersion
from yizhan_testing.protocol_room import ALICE, ALL_VERSIONS, BOB, CAROL, versions

CREATE = ("m.room.create", "")
LEVELS = ("m.room.power_levels", "")
JOIN_RULES = ("m.room.join_rules", "")


def member(user_id: str) -> tuple[str, str]:
    return "m.room.member", user_id


def selected(version: RoomVersion, target: str | None = None, **content: Any) -> set[Any]:
    event_type = "m.room.message" if target is None else "m.room.member"
    keys = auth_types_for_event(event_type, ALICE, target, content, version)
    assert len(set(keys)) == len(keys)
    return set(keys) - {CREATE}


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_create_event_has_none(version: RoomVersion) -> None:
    assert auth_types_for_event("m.room.create", ALICE, "", {}, version) == []


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_create_is_selected_until_the_room_id_implies_it(version: RoomVersion) -> None:
    keys = auth_types_for_event("m.room.name", ALICE, "", {}, version)
    assert (CREATE in keys) == (version in versions(1, 11))


@pytest.mark.parametrize("version", [V11, V12])
def test_a_message_needs_levels_and_its_senders_membership(version: RoomVersion) -> None:
    assert selected(version) == {LEVELS, member(ALICE)}


@pytest.mark.parametrize("membership", ["join", "invite", "knock"])
def test_coming_closer_needs_the_join_rules(membership: str) -> None:
    expected = {LEVELS, member(ALICE), member(BOB), JOIN_RULES}
    assert selected(V12, BOB, membership=membership) == expected


@pytest.mark.parametrize("membership", ["leave", "ban", "odd", None, ["join"], {}])
def test_other_memberships_do_not(membership: Any) -> None:
    assert selected(V12, BOB, membership=membership) == {LEVELS, member(ALICE), member(BOB)}


def test_the_sender_is_selected_once() -> None:
    assert selected(V12, ALICE, membership="leave") == {LEVELS, member(ALICE)}


def test_a_third_party_invite_needs_the_event_with_its_token() -> None:
    invite = {"signed": {"token": "t"}}
    third_party = ("m.room.third_party_invite", "t")
    assert third_party in selected(V12, BOB, membership="invite", third_party_invite=invite)
    assert third_party not in selected(V12, BOB, membership="join", third_party_invite=invite)
    odd: list[Any] = [None, "t", {}, {"signed": "t"}, {"signed": {}}, {"signed": {"token": 1}}]
    for malformed in odd:
        keys = selected(V12, BOB, membership="invite", third_party_invite=malformed)
        assert keys == {LEVELS, member(ALICE), member(BOB), JOIN_RULES}


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_restricted_join_needs_the_member_who_authorised_it(version: RoomVersion) -> None:
    keys = selected(version, ALICE, membership="join", join_authorised_via_users_server=CAROL)
    assert (member(CAROL) in keys) == (version in versions(8))
    left = selected(version, ALICE, membership="leave", join_authorised_via_users_server=CAROL)
    assert member(CAROL) not in left
    assert len(selected(version, ALICE, membership="join", join_authorised_via_users_server=1)) == 3
