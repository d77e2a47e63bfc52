"""The rules about an event's auth events: 2 up to version 11, 3 in version 12."""

import pytest

from yizhan_server.protocol.auth_rules import check_auth_events_selection
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_testing.protocol_room import ALICE, ALL_VERSIONS, BOB, ProtocolRoom, versions


def refusal_of(
    event: Pdu, auth_events: list[Pdu], version: RoomVersion, rejected: set[EventID] | None = None
) -> str | None:
    try:
        check_auth_events_selection(event, auth_events, rejected or set(), version)
    except AuthRuleRejection as rejection:
        return rejection.rule
    return None


class Selection:
    """A room, a message, and the auth events that it should have."""

    def __init__(self, version: RoomVersion) -> None:
        self.version = version
        self.room = ProtocolRoom(version)
        self.member = self.room.put_member(ALICE, "join")
        self.levels = self.room.put_levels(users={})
        self.message = self.room.event("m.room.message", ALICE, {})
        self.right = [self.member, self.levels]
        if version in versions(1, 11):
            self.right.append(self.room.create)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_right_selection_is_allowed(version: RoomVersion) -> None:
    selection = Selection(version)
    assert refusal_of(selection.message, selection.right, version) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_create_event_is_judged_by_its_own_rule(version: RoomVersion) -> None:
    assert refusal_of(ProtocolRoom(version).create, [], version) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_no_two_events_have_the_same_key(version: RoomVersion) -> None:
    selection = Selection(version)
    twice = [*selection.right, selection.room.put_member(ALICE, "join")]
    assert refusal_of(selection.message, twice, version) == "auth_events.duplicate"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_nothing_is_there_that_was_not_to_be_selected(version: RoomVersion) -> None:
    selection = Selection(version)
    room = selection.room
    for other in (
        room.put_member(BOB, "join"),
        room.put_join_rule("public"),
        room.put_state("m.room.name", {}),
        room.event("m.room.power_levels", ALICE, {}),
    ):
        extended = [*selection.right, other]
        assert refusal_of(selection.message, extended, version) == "auth_events.not_selected"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_nothing_is_there_that_was_rejected(version: RoomVersion) -> None:
    selection = Selection(version)
    rejected = {selection.levels.event_id}
    refusal = refusal_of(selection.message, selection.right, version, rejected)
    assert refusal == "auth_events.rejected"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_create_event_is_there_until_the_room_id_implies_it(version: RoomVersion) -> None:
    selection = Selection(version)
    create = selection.room.create
    if version in versions(1, 11):
        without = [event for event in selection.right if event is not create]
        assert refusal_of(selection.message, without, version) == "auth_events.no_create"
    else:
        refusal = refusal_of(selection.message, [*selection.right, create], version)
        assert refusal == "auth_events.not_selected"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_nothing_is_there_of_another_room(version: RoomVersion) -> None:
    selection = Selection(version)
    other_room = ProtocolRoom(version, creator=BOB)
    foreign = other_room.put_member(ALICE, "join")
    mixed = [foreign, *selection.right[1:]]
    assert refusal_of(selection.message, mixed, version) == "auth_events.other_room"
