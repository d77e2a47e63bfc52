"""History visibility: the specification's five rules and its two exceptions."""

from itertools import product
from typing import Any

import pytest

from yizhan_server.protocol.room_version import V12
from yizhan_server.protocol.visibility import may_see, may_see_event
from yizhan_testing.protocol_room import ALICE, BOB, ProtocolRoom

VISIBILITIES = ["world_readable", "shared", "invited", "joined"]
MEMBERSHIPS = [None, "invite", "join", "leave", "ban", "knock"]

# (visibility, membership at the event, joined later) of all that is seen. "join" sees everything.
SEEN = (
    {("world_readable", m, later) for m in MEMBERSHIPS for later in (False, True)}
    | {(v, "join", later) for v in VISIBILITIES for later in (False, True)}
    | {("shared", m, True) for m in MEMBERSHIPS}
    | {("invited", "invite", False), ("invited", "invite", True)}
)


@pytest.mark.parametrize(
    ("visibility", "membership", "later"), list(product(VISIBILITIES, MEMBERSHIPS, [False, True]))
)
def test_the_five_rules(visibility: str, membership: str | None, later: bool) -> None:
    seen = may_see(visibility=visibility, membership=membership, joined_later=later)
    assert seen == ((visibility, membership, later) in SEEN)


@pytest.mark.parametrize("odd", [None, "", "everyone", 1, ["joined"], {"a": "b"}])
def test_what_is_not_understood_is_shared(odd: Any) -> None:
    for membership, later in product(MEMBERSHIPS, [False, True]):
        assert may_see(visibility=odd, membership=membership, joined_later=later) == may_see(
            visibility="shared", membership=membership, joined_later=later
        )


@pytest.mark.parametrize(("before", "after"), list(product(VISIBILITIES, VISIBILITIES)))
def test_a_change_of_visibility_is_seen_if_either_lets_it(before: str, after: str) -> None:
    room = ProtocolRoom(V12)
    event = room.event("m.room.history_visibility", ALICE, {"history_visibility": after}, "")
    for membership in MEMBERSHIPS:
        seen = may_see_event(
            event, BOB, visibility=before, membership=membership, joined_later=False
        )
        either = {(before, membership, False), (after, membership, False)} & SEEN
        assert seen == bool(either)


@pytest.mark.parametrize(("before", "after"), list(product(MEMBERSHIPS, MEMBERSHIPS[1:])))
def test_a_change_of_ones_own_membership_is_seen_if_either_lets_it(
    before: str | None, after: str
) -> None:
    event = ProtocolRoom(V12).member_event(BOB, after, ALICE)
    for visibility in VISIBILITIES:
        seen = may_see_event(
            event, BOB, visibility=visibility, membership=before, joined_later=False
        )
        either = {(visibility, before, False), (visibility, after, False)} & SEEN
        assert seen == bool(either)


def test_other_peoples_changes_and_other_state_keys_are_no_exception() -> None:
    room = ProtocolRoom(V12)
    world = {"history_visibility": "world_readable"}
    for event in (
        room.member_event(ALICE, "join"),
        room.event("m.room.history_visibility", ALICE, world, "x"),
        room.event("m.room.history_visibility", ALICE, world),
        room.event("m.room.message", ALICE, {"membership": "join", **world}),
        room.event("m.room.name", ALICE, world, ""),
        room.event("org.example", ALICE, {"membership": "join"}, BOB),
    ):
        assert not may_see_event(
            event, BOB, visibility="joined", membership="leave", joined_later=True
        )
        assert may_see_event(event, BOB, visibility="joined", membership="join", joined_later=False)
