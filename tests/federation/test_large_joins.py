"""Rooms of thousands: what is seen of a join under way, and that the order told does not matter."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from typing_extensions import override

from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.homeserver import HomeserverInProcess, Person
from yizhan_testing.large_room import LargeRoom

if TYPE_CHECKING:
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]

JOINS = "/_yizhan/admin/v1/joins"


async def joins(person: Person, large: LargeRoom) -> None:
    path = f"/v3/join/{quote(str(large.room_id), safe='')}"
    await person.call("POST", path, {}, params={"via": large.peer.name})


async def check_is_there(person: Person, large: LargeRoom) -> None:
    """Check that the room's state is what was told, and the person in it."""
    path = f"/v3/rooms/{quote(str(large.room_id), safe='')}"
    events: Any = await person.get(f"{path}/state")
    state = {(event["type"], event["state_key"]): event["event_id"] for event in events}
    del state["m.room.member", person.user_id]
    assert state == {key: pdu.event_id for key, pdu in large.state.items()}
    joined = (await person.get(f"{path}/joined_members"))["joined"]
    assert len(joined) == len(state) - 2
    counted = (await person.syncs()).room(str(large.room_id))["summary"]
    assert counted["m.joined_member_count"] == len(joined)


async def test_administrators_see_how_far_a_join_has_come(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "yizhan_server.rooms.handshakes.under_way")
    admin = await homeserver.person("admin", admin=True)
    large = LargeRoom(peer, ROOM_VERSIONS["12"], members=1300)
    large.lets_in(alice.user_id)
    seen: list[dict[str, Any]] = []

    async def looks() -> None:
        while not seen or (await admin.get(JOINS))["joins"]:
            seen.extend((await admin.get(JOINS))["joins"])

    async with asyncio.TaskGroup() as group:
        group.create_task(joins(alice, large))
        group.create_task(looks())

    total = len(large.state)
    for join in seen:
        assert (join["room_id"], join["user_id"]) == (large.room_id, alice.user_id)
        assert join["server"] == peer.name
        assert join["events_total"] in (None, total)
    assert {None, total} == {join["events_total"] for join in seen}
    done = [join["events_done"] for join in seen]
    assert done == sorted(done)
    assert any(0 < count < total for count in done)
    said = [getattr(record, "events", 0) for record in caplog.records]
    assert said == [1200, total]
    await check_is_there(alice, large)


@pytest.mark.parametrize("version", ["10", "12"])
async def test_a_room_whose_events_are_told_in_no_order_is_joined(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, version: str
) -> None:
    large = LargeRoom(peer, ROOM_VERSIONS[version], members=500, deep=False)
    large.lets_in(alice.user_id)
    await joins(alice, large)
    await check_is_there(alice, large)
    await alice.says(str(large.room_id), "good morning")


class OddRoom(LargeRoom):
    """One in whose state is an invitation of what is no user."""

    @override
    def answer(self) -> JsonObject:
        last = self.state["m.room.join_rules", ""]
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")]
        event = {
            "type": "m.room.member", "sender": last.sender, "state_key": "a\0b", "depth": 9,
            "content": {"membership": "invite"}, "room_id": self.room_id,
            "origin_server_ts": last.origin_server_ts, "prev_events": [last.event_id],
            "auth_events": [self.state[key].event_id for key in keys],
        }  # fmt: skip
        raw = hash_and_sign_event(event, self.version, self.peer.name, self.peer.key)
        told = super().answer()
        return {**told, "state": [*told["state"], raw]}


async def test_a_room_is_joined_that_has_what_no_column_can_hold(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    large = OddRoom(peer, ROOM_VERSIONS["11"], members=1)
    large.lets_in(alice.user_id)
    await joins(alice, large)
    await check_is_there(alice, large)
