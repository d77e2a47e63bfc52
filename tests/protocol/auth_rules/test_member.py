"""The rules about `m.room.member` (4 or 5, by version), in the specification's order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.auth_rules import check_auth
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.identifiers import ServerName, UserID
from yizhan_server.protocol.room_version import V9, V10, V11, V12, RoomVersion
from yizhan_server.protocol.signing import SigningKey, sign_event, sign_json
from yizhan_testing.protocol_room import (
    ALICE,
    ALL_VERSIONS,
    BOB,
    CAROL,
    ProtocolRoom,
    key_of,
    versions,
)

BEING = [None, "invite", "join", "leave", "ban", "knock"]


def room_with(version: RoomVersion, **memberships: str | None) -> ProtocolRoom:
    """Return a room in which Alice, and those named, have these memberships."""
    room = ProtocolRoom(version)
    users = {"alice": ALICE, "bob": BOB, "carol": CAROL}
    for name, membership in {"alice": "join", **memberships}.items():
        if membership is not None:
            room.put_member(users[name], membership)
    return room


# --- what every membership needs


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_member_event_is_a_state_event_with_a_membership(version: RoomVersion) -> None:
    room = room_with(version)
    no_key = room.event("m.room.member", BOB, {"membership": "join"})
    assert room.refusal_of(no_key) == "member.no_state_key"
    no_membership = room.event("m.room.member", BOB, {}, BOB)
    assert room.refusal_of(no_membership) == "member.no_membership"


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("membership", ["banned", "", 1, None, ["join"]])
def test_unknown_memberships_are_refused(version: RoomVersion, membership: Any) -> None:
    room = room_with(version)
    event = room.event("m.room.member", ALICE, {"membership": membership}, ALICE)
    assert room.refusal_of(event) == "member.unknown_membership"


# --- join_authorised_via_users_server


def signed_by(event: Pdu, version: RoomVersion, server_name: str) -> Pdu:
    name = ServerName(server_name)
    return parse_pdu(sign_event(event.raw, version, name, key_of(name)), version)


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("membership", ["join", "leave"])
def test_since_version_8_the_authorising_server_must_have_signed(
    version: RoomVersion, membership: str
) -> None:
    room = room_with(version, bob="join")
    event = room.member_event(BOB, membership, join_authorised_via_users_server=ALICE)
    expected = "member.authoriser_signature" if version in versions(8) else None
    assert room.refusal_of(event) == expected
    assert room.refusal_of(signed_by(event, version, "c.test")) == expected
    assert room.refusal_of(signed_by(event, version, "a.test")) is None


@pytest.mark.parametrize("version", versions(8))
@pytest.mark.parametrize("authoriser", [None, 1, "alice", "", "@alice", ["@alice:a.test"]])
def test_an_authoriser_is_a_user_id(version: RoomVersion, authoriser: Any) -> None:
    room = room_with(version, bob="join")
    event = room.member_event(BOB, "join", join_authorised_via_users_server=authoriser)
    assert room.refusal_of(event) == "member.authoriser_signature"


def test_whoever_has_the_keys_is_asked_about_the_signature() -> None:
    room = room_with(V12, bob="join")
    event = room.member_event(BOB, "join", join_authorised_via_users_server=ALICE)
    event = signed_by(event, V12, "a.test")
    asked = []

    def answer(server_name: ServerName) -> bool:
        asked.append(server_name)
        return len(asked) == 1

    check_auth(event, room.state, V12, is_signed_by=answer)
    with pytest.raises(AuthRuleRejection) as refused:
        check_auth(event, room.state, V12, is_signed_by=answer)
    assert refused.value.rule == "member.authoriser_signature"
    assert asked == ["a.test", "a.test"]


# --- join


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_creator_joins_directly_after_the_create_event(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    create = [room.create.event_id]
    assert room.refusal_of(room.member_event(ALICE, "join", prev_events=create)) is None
    assert room.refusal_of(room.member_event(ALICE, "join")) == "member.join.not_invited"
    late = room.member_event(ALICE, "join", prev_events=create * 2)
    assert room.refusal_of(late) == "member.join.not_invited"
    other = room.member_event(BOB, "join", prev_events=create)
    assert room.refusal_of(other) == "member.join.not_invited"


def test_who_the_creator_is_changed_in_version_11() -> None:
    for version, creator in ((V10, BOB), (V11, ALICE)):
        room = ProtocolRoom(version, create_content={"creator": BOB})
        create = [room.create.event_id]
        assert room.refusal_of(room.member_event(creator, "join", prev_events=create)) is None
        other = ALICE if creator == BOB else BOB
        refusal = room.refusal_of(room.member_event(other, "join", prev_events=create))
        assert refusal == "member.join.not_invited"


def test_additional_creators_are_invited_like_everybody() -> None:
    room = ProtocolRoom(V12, create_content={"additional_creators": [BOB]})
    event = room.member_event(BOB, "join", prev_events=[room.create.event_id])
    assert room.refusal_of(event) == "member.join.not_invited"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_nobody_joins_for_somebody_else(version: RoomVersion) -> None:
    room = room_with(version)
    room.put_join_rule("public")
    assert room.refusal_of(room.member_event(BOB, "join", ALICE)) == "member.join.of_another"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_banned_do_not_join_whatever_the_rule(version: RoomVersion) -> None:
    room = room_with(version, bob="ban")
    for rule in ("public", "invite", "knock", "restricted", "knock_restricted", "odd"):
        room.put_join_rule(rule)
        assert room.refusal_of(room.member_event(BOB, "join")) == "member.join.banned"


def first_version_with(rule: str) -> int:
    return {"public": 1, "invite": 1, "knock": 7, "restricted": 8, "knock_restricted": 10}[rule]


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("rule", ["public", "invite", "knock", "restricted", "knock_restricted"])
@pytest.mark.parametrize("membership", [None, "invite", "join", "leave", "knock"])
def test_each_join_rule_admits_those_whom_it_should(
    version: RoomVersion, rule: str, membership: str | None
) -> None:
    room = room_with(version, bob=membership)
    room.put_join_rule(rule)
    if version not in versions(first_version_with(rule)):
        expected = "member.join.rule"
    elif rule == "public" or membership in ("invite", "join"):
        expected = None
    elif rule in ("restricted", "knock_restricted"):
        expected = "member.join.authoriser"
    else:
        expected = "member.join.not_invited"
    assert room.refusal_of(room.member_event(BOB, "join")) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("rule", ["private", "", "Public", 1, None, ["public"]])
def test_an_unknown_join_rule_admits_nobody(version: RoomVersion, rule: Any) -> None:
    room = room_with(version, bob="invite")
    room.put_state("m.room.join_rules", {"join_rule": rule})
    assert room.refusal_of(room.member_event(BOB, "join")) == "member.join.rule"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_without_a_join_rule_invitations_are_needed(version: RoomVersion) -> None:
    room = room_with(version)
    assert room.refusal_of(room.member_event(BOB, "join")) == "member.join.not_invited"
    room.put_member(BOB, "invite")
    assert room.refusal_of(room.member_event(BOB, "join")) is None


@pytest.mark.parametrize("version", versions(8))
def test_a_restricted_join_is_authorised_by_a_member_who_may_invite(version: RoomVersion) -> None:
    room = room_with(version, carol="join")
    room.put_join_rule("restricted", allow=[])
    room.put_levels(users={ALICE: 10, CAROL: 9} if version is not V12 else {CAROL: 9}, invite=10)

    def refusal_if_authorised_by(user_id: UserID) -> str | None:
        event = room.member_event(BOB, "join", join_authorised_via_users_server=user_id)
        return room.refusal_of(signed_by(event, version, user_id.partition(":")[2]))

    assert refusal_if_authorised_by(ALICE) is None
    assert refusal_if_authorised_by(CAROL) == "member.join.authoriser"
    room.put_member(ALICE, "leave")
    assert refusal_if_authorised_by(ALICE) == "member.join.authoriser"
    assert refusal_if_authorised_by(UserID("@nobody:a.test")) == "member.join.authoriser"


def test_knock_restricted_is_unknown_before_version_10() -> None:
    for version, expected in ((V9, "member.join.rule"), (V10, None)):
        room = room_with(version)
        room.put_join_rule("knock_restricted")
        event = room.member_event(BOB, "join", join_authorised_via_users_server=ALICE)
        assert room.refusal_of(signed_by(event, version, "a.test")) == expected


# --- invite


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("membership", BEING)
def test_only_members_invite(version: RoomVersion, membership: str | None) -> None:
    room = room_with(version, bob=membership)
    expected = None if membership == "join" else "sender.not_joined"
    assert room.refusal_of(room.member_event(CAROL, "invite", BOB)) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("membership", BEING)
def test_members_and_the_banned_are_not_invited(
    version: RoomVersion, membership: str | None
) -> None:
    room = room_with(version, bob=membership)
    expected = "member.invite.target" if membership in ("join", "ban") else None
    assert room.refusal_of(room.member_event(BOB, "invite", ALICE)) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_inviting_needs_the_invite_level(version: RoomVersion) -> None:
    room = room_with(version, bob="join")
    room.put_levels(users={BOB: 10}, invite=10)
    assert room.refusal_of(room.member_event(CAROL, "invite", BOB)) is None
    room.put_levels(users={BOB: 9}, invite=10)
    assert room.refusal_of(room.member_event(CAROL, "invite", BOB)) == "member.invite.level"


# --- third-party invites

IDENTITY_KEY = SigningKey("ed25519:0", b"i" * 32)
TOKEN = "token"


def third_party_room(version: RoomVersion, **content: Any) -> ProtocolRoom:
    room = room_with(version)
    room.put_state("m.room.third_party_invite", content, TOKEN, ALICE)
    return room


def third_party_event(
    room: ProtocolRoom, signed: Any = None, sender: UserID = ALICE, key: SigningKey = IDENTITY_KEY
) -> Pdu:
    if signed is None:
        signed = sign_json({"mxid": BOB, "token": TOKEN}, "identity.test", key)
    return room.member_event(BOB, "invite", sender, third_party_invite={"signed": signed})


PUBLIC = IDENTITY_KEY.verify_key.to_base64()


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(
    "keys", [{"public_key": PUBLIC}, {"public_key": "x", "public_keys": [{"public_key": PUBLIC}]}]
)
def test_a_signed_third_party_invite_is_allowed(version: RoomVersion, keys: Any) -> None:
    room = third_party_room(version, **keys)
    assert room.refusal_of(third_party_event(room)) is None
    room.put_member(ALICE, "leave")  # whoever announced it need not be there any more
    assert room.refusal_of(third_party_event(room)) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_third_party_invite_is_for_nobody_banned(version: RoomVersion) -> None:
    room = third_party_room(version, public_key=PUBLIC)
    room.put_member(BOB, "ban")
    assert room.refusal_of(third_party_event(room)) == "member.third_party_invite.banned"


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("invite", [None, "x", {}, {"signed": None}, {"signed": "x"}])
def test_a_third_party_invite_has_a_signed_object(version: RoomVersion, invite: Any) -> None:
    room = third_party_room(version, public_key=PUBLIC)
    event = room.member_event(BOB, "invite", ALICE, third_party_invite=invite)
    assert room.refusal_of(event) == "member.third_party_invite.unsigned"


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(
    ("signed", "rule"),
    [
        ({"token": TOKEN}, "incomplete"),
        ({"mxid": BOB}, "incomplete"),
        ({"mxid": BOB, "token": 1}, "incomplete"),
        ({"mxid": CAROL, "token": TOKEN}, "mxid"),
        ({"mxid": BOB, "token": "other"}, "token"),
        ({"mxid": BOB, "token": TOKEN}, "signature"),
        ({"mxid": BOB, "token": TOKEN, "signatures": {"x": {"ed25519:0": "A" * 86}}}, "signature"),
    ],
)
def test_a_third_party_invite_says_who_and_which(
    version: RoomVersion, signed: Any, rule: str
) -> None:
    room = third_party_room(version, public_key=PUBLIC)
    event = third_party_event(room, signed)
    assert room.refusal_of(event) == f"member.third_party_invite.{rule}"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_third_party_invite_is_sent_by_who_announced_it(version: RoomVersion) -> None:
    room = third_party_room(version, public_key=PUBLIC)
    room.put_member(CAROL, "join")
    event = third_party_event(room, sender=CAROL)
    assert room.refusal_of(event) == "member.third_party_invite.sender"


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(
    "keys", [{}, {"public_key": 1}, {"public_keys": "x"}, {"public_keys": [1, {"public_key": "x"}]}]
)
def test_a_third_party_invite_is_signed_by_a_listed_key(version: RoomVersion, keys: Any) -> None:
    room = third_party_room(version, **keys)
    refusal = room.refusal_of(third_party_event(room))
    assert refusal == "member.third_party_invite.signature"
    room = third_party_room(version, public_key=PUBLIC)
    other = third_party_event(room, key=SigningKey("ed25519:0", b"o" * 32))
    assert room.refusal_of(other) == "member.third_party_invite.signature"


# --- leave


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("membership", BEING)
def test_one_leaves_where_one_is(version: RoomVersion, membership: str | None) -> None:
    room = room_with(version, bob=membership)
    may = {"invite", "join"} | ({"knock"} if version in versions(7) else set())
    expected = None if membership in may else "member.leave.not_in_room"
    assert room.refusal_of(room.member_event(BOB, "leave")) == expected


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_removing_others_needs_membership_and_levels(version: RoomVersion) -> None:
    room = room_with(version, bob="join", carol="join")
    kick = room.member_event(CAROL, "leave", BOB)
    for bob, carol, needed, expected in (
        (10, 9, 10, None),
        (9, 0, 10, "member.leave.kick_level"),
        (10, 10, 10, "member.leave.target_level"),
        (10, 11, 10, "member.leave.target_level"),
    ):
        room.put_levels(users={BOB: bob, CAROL: carol}, kick=needed)
        assert room.refusal_of(kick) == expected
    room.put_levels(users={BOB: 100})
    room.put_member(BOB, "leave")
    assert room.refusal_of(kick) == "sender.not_joined"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_lifting_a_ban_needs_the_ban_level_too(version: RoomVersion) -> None:
    room = room_with(version, bob="join", carol="ban")
    unban = room.member_event(CAROL, "leave", BOB)
    for bob, ban, kick, expected in (
        (10, 10, 10, None),
        (10, 11, 10, "member.leave.unban_level"),
        (10, 10, 11, "member.leave.kick_level"),
    ):
        room.put_levels(users={BOB: bob}, ban=ban, kick=kick)
        assert room.refusal_of(unban) == expected


# --- ban


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("membership", BEING)
def test_banning_needs_membership_and_levels(version: RoomVersion, membership: str | None) -> None:
    room = room_with(version, bob="join", carol=membership)
    ban = room.member_event(CAROL, "ban", BOB)
    for bob, carol, needed, expected in (
        (10, 9, 10, None),
        (9, 0, 10, "member.ban.level"),
        (10, 10, 10, "member.ban.target_level"),
    ):
        room.put_levels(users={BOB: bob, CAROL: carol}, ban=needed)
        assert room.refusal_of(ban) == expected
    room.put_levels(users={BOB: 100})
    room.put_member(BOB, "leave")
    assert room.refusal_of(ban) == "sender.not_joined"


def test_creators_are_out_of_each_others_reach() -> None:
    room = ProtocolRoom(V12, create_content={"additional_creators": [BOB]})
    for user_id in (ALICE, BOB, CAROL):
        room.put_member(user_id, "join")
    room.put_levels(users={CAROL: 2**53 - 1})
    assert room.refusal_of(room.member_event(BOB, "ban", ALICE)) == "member.ban.target_level"
    assert room.refusal_of(room.member_event(ALICE, "leave", BOB)) == "member.leave.target_level"
    assert room.refusal_of(room.member_event(ALICE, "ban", CAROL)) == "member.ban.target_level"
    assert room.refusal_of(room.member_event(CAROL, "ban", BOB)) is None


# --- knock


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("rule", ["public", "invite", "knock", "restricted", "knock_restricted"])
def test_knocking_is_for_rooms_that_take_knocks(version: RoomVersion, rule: str) -> None:
    room = room_with(version)
    room.put_join_rule(rule)
    if version not in versions(7):
        expected = "member.unknown_membership"
    elif rule == "knock" or (rule == "knock_restricted" and version in versions(10)):
        expected = None
    else:
        expected = "member.knock.rule"
    assert room.refusal_of(room.member_event(BOB, "knock")) == expected


@pytest.mark.parametrize("version", versions(7))
@pytest.mark.parametrize("membership", BEING)
def test_who_is_in_or_banned_does_not_knock(version: RoomVersion, membership: str | None) -> None:
    room = room_with(version, bob=membership)
    room.put_join_rule("knock")
    expected = "member.knock.membership" if membership in ("ban", "invite", "join") else None
    assert room.refusal_of(room.member_event(BOB, "knock")) == expected


@pytest.mark.parametrize("version", versions(7))
def test_nobody_knocks_for_somebody_else(version: RoomVersion) -> None:
    room = room_with(version)
    room.put_join_rule("knock")
    assert room.refusal_of(room.member_event(BOB, "knock", ALICE)) == "member.knock.of_another"


# --- all of it together


@given(
    st.sampled_from(ALL_VERSIONS),
    st.sampled_from(["public", "invite", "knock", "restricted", "knock_restricted", "private"]),
    st.lists(
        st.tuples(
            st.sampled_from([ALICE, BOB, CAROL]),
            st.sampled_from([ALICE, BOB, CAROL]),
            st.sampled_from(["join", "invite", "leave", "ban", "knock"]),
        ),
        max_size=12,
    ),
)
def test_nobody_gets_into_a_closed_room_and_nobody_powerless_removes_another(
    version: RoomVersion, rule: str, attempts: list[tuple[UserID, UserID, str]]
) -> None:
    room = room_with(version)
    room.put_join_rule(rule)
    room.put_levels(users={} if version is V12 else {ALICE: 100}, invite=50)
    admitted = {ALICE}  # by Alice, the only one who may
    for sender, target, membership in attempts:
        event = room.member_event(target, membership, sender)
        if room.refusal_of(event) is not None:
            continue
        room.put(event)
        if sender == ALICE and membership == "invite":
            admitted.add(target)
        if membership in ("ban", "leave"):
            admitted.discard(target)
            assert sender in (target, ALICE)
        if membership == "join" and rule != "public":
            assert target in admitted
