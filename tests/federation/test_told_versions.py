"""Which version a room is of that another server tells about: a wrong word shuts nobody out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from yizhan_server.protocol.event import parse_pdu
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_server.rooms.incoming.state_intake import StateIntake
from yizhan_testing.large_room import SINCE_MS, V2, LargeRoom
from yizhan_testing.peer_rooms import PeerInRoom, path_of

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Answered, Peer

JsonObject = dict[str, Any]


async def invites(
    peer: Peer,
    homeserver: HomeserverInProcess,
    room_id: str,
    person: Person,
    version: str,
    state: list[JsonObject],
) -> Answered:
    event = {
        "type": "m.room.member", "sender": f"@owner:{peer.name}", "state_key": person.user_id,
        "content": {"membership": "invite"}, "room_id": room_id, "depth": 9,
        "origin": peer.name, "origin_server_ts": SINCE_MS, "prev_events": [], "auth_events": [],
    }  # fmt: skip
    raw = hash_and_sign_event(event, ROOM_VERSIONS[version], peer.name, peer.key)
    event_id = parse_pdu(raw, ROOM_VERSIONS[version]).event_id
    body = {"event": raw, "room_version": version, "invite_room_state": state}
    return await peer.asks(homeserver, "PUT", path_of(f"{V2}/invite", room_id, event_id), body)


@pytest.mark.parametrize("version", ["11", "12"])
async def test_a_room_is_joined_of_which_somebody_has_told_another_version(
    homeserver: HomeserverInProcess, peer: Peer, bob: Person, version: str
) -> None:
    room = LargeRoom(peer, ROOM_VERSIONS[version], members=1)
    assert room.room_id is not None
    answer = await invites(peer, homeserver, room.room_id, bob, "6", [])
    assert answer.status == 200, answer.content
    room.lets_in(bob.user_id)
    await bob.call("POST", path_of("/v3/join", room.room_id), {}, params={"via": peer.name})
    members = await bob.get(path_of("/v3/rooms", room.room_id, "joined_members"))
    assert len(members["joined"]) == 3


async def test_an_invitation_with_proof_holds_against_one_with_another_version(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    room = LargeRoom(peer, ROOM_VERSIONS["11"], members=1)
    assert room.room_id is not None
    create = room.state["m.room.create", ""].raw
    lie = {**create, "content": {**create["content"], "room_version": "10"}}
    assert (await invites(peer, homeserver, room.room_id, bob, "6", [])).status == 200
    right = await invites(peer, homeserver, room.room_id, alice, "11", [create])
    assert right.status == 200, right.content
    for version, state in (("6", []), ("6", [create]), ("10", [lie])):
        wrong = await invites(peer, homeserver, room.room_id, bob, version, state)
        assert (wrong.status, wrong.errcode) == (400, "M_INVALID_PARAM")
    found = (await alice.syncs()).room(room.room_id, "invite")
    assert found["invite_state"]["events"]


async def test_another_version_that_is_proven_during_a_join_takes_nothing_from_it(
    homeserver: HomeserverInProcess,
    peer: Peer,
    alice: Person,
    bob: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = LargeRoom(peer, ROOM_VERSIONS["11"], members=1)
    assert room.room_id is not None
    create = room.state["m.room.create", ""].raw
    content = {"room_version": "10", "creator": create["sender"]}
    other = {key: each for key, each in create.items() if key not in ("hashes", "signatures")}
    other = hash_and_sign_event(
        {**other, "content": content}, ROOM_VERSIONS["10"], peer.name, peer.key
    )
    take = StateIntake.take
    answers = []

    async def disturbed(*args: Any, **more: Any) -> Any:
        told = await take(*args, **more)
        for version, state in (("10", other), ("11", create)):
            answers.append(
                await invites(peer, homeserver, str(room.room_id), alice, version, [state])
            )
        return told

    monkeypatch.setattr(StateIntake, "take", disturbed)
    room.lets_in(bob.user_id)
    await bob.call("POST", path_of("/v3/join", room.room_id), {}, params={"via": peer.name})
    assert [answer.status for answer in answers] == [400, 200]
    members = await bob.get(path_of("/v3/rooms", room.room_id, "joined_members"))
    assert len(members["joined"]) == 3
    await bob.syncs()


async def test_what_is_shown_of_an_invitation_has_the_form_that_clients_expect(
    homeserver: HomeserverInProcess, peer: Peer, bob: Person
) -> None:
    room_id = f"!odd:{peer.name}"
    name = {"type": "m.room.name", "state_key": "", "content": {"name": "odd"}}
    good = {**name, "sender": f"@owner:{peer.name}"}
    odd = [{**name, "sender": sender} for sender in ("nobody", 1, "", room_id)]
    assert (await invites(peer, homeserver, room_id, bob, "11", [*odd, good])).status == 200
    shown = (await bob.syncs()).room(room_id, "invite")["invite_state"]["events"]
    assert [event for event in shown if event["type"] == "m.room.name"] == [good]


async def test_nobody_takes_the_id_of_an_event_that_has_yet_to_come(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="11")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    said = guest.says("to come")
    event: JsonObject = {
        "type": "m.room.member", "sender": f"@owner:{peer.name}", "state_key": bob.user_id,
        "content": {"membership": "invite"}, "room_id": f"!other:{peer.name}", "depth": 9,
        "origin": peer.name, "origin_server_ts": SINCE_MS, "prev_events": [], "auth_events": [],
        "event_id": said.event_id,
    }  # fmt: skip
    raw = hash_and_sign_event(event, ROOM_VERSIONS["1"], peer.name, peer.key)
    body = {"event": raw, "room_version": "1", "invite_room_state": []}
    path = path_of(f"{V2}/invite", event["room_id"], said.event_id)
    answer = await peer.asks(homeserver, "PUT", path, body)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    assert await guest.sends(said) == {said.event_id: {}}
    page = await alice.get(path_of("/v3/rooms", room, "messages"), dir="b", limit="5")
    assert said.event_id in [each["event_id"] for each in page["chunk"]]
