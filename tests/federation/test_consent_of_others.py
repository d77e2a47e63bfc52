"""A room of ours that restricts who may join, and another server that knows who is permitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from yizhan_server.protocol.event import parse_pdu
from yizhan_server.protocol.signing import sign_event
from yizhan_testing.departments import departments
from yizhan_testing.homeserver import Refused
from yizhan_testing.peer_rooms import V1, V2, PeerInRoom, path_of
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from aiohttp import web

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]


def allowing(room: str) -> JsonObject:
    return {
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": room}],
    }


def lets_in(guest: PeerInRoom, user_id: str, *, without: str = "", by: str | None = None) -> None:
    """Have the peer let a user in, and leave a type of events out of the state that it tells."""
    content = {"membership": "join", "join_authorised_via_users_server": by or guest.user_id}
    keys = ["m.room.create", "m.room.power_levels", "m.room.join_rules"]
    auth = [guest.state[key, ""] for key in keys]
    auth.append(guest.state["m.room.member", by or guest.user_id])
    template = {
        "type": "m.room.member", "sender": user_id, "state_key": user_id, "content": content,
        "room_id": guest.room, "depth": guest.last[0].depth + 1,
        "prev_events": [each.event_id for each in guest.last],
        "auth_events": [each.event_id for each in auth],
    }  # fmt: skip

    async def make_join(_: web.BaseRequest) -> JsonObject:
        return {"room_version": guest.version.identifier, "event": template}

    async def send_join(request: web.BaseRequest) -> JsonObject:
        raw = orjson.loads(await request.read())
        signed = sign_event(raw, guest.version, guest.peer.name, guest.peer.key)
        told = [pdu.raw for pdu in guest.state.values() if pdu.type != without]
        return {
            "origin": guest.peer.name, "event": signed, "state": told,
            "auth_chain": [pdu.raw for pdu in auth], "members_omitted": False,
        }  # fmt: skip

    guest.peer.handlers_below |= {f"{V1}/make_join/": make_join, f"{V2}/send_join/": send_join}


def takes_rules(guest: PeerInRoom, sent: list[JsonObject]) -> Callable[[], Awaitable[None]]:
    """Have the peer take the join rules that it has been sent for part of the room's state."""

    async def look() -> None:
        rules = [each for each in sent if each["type"] == "m.room.join_rules"]
        assert rules
        pdu = parse_pdu(rules[-1], guest.version)
        guest.state[pdu.key], guest.last = pdu, [pdu]

    return look


async def joins(person: Person, room: str, via: HomeserverInProcess) -> None:
    path = path_of("/v3/join", room)
    await person.call("POST", path, {}, params={"via": via.server_name})


async def read(person: Person, room: str) -> list[str]:
    page = await person.get(path_of("/v3/rooms", room, "messages"), dir="b", limit="5")
    return [event["event_id"] for event in page["chunk"]]


def sees(person: Person, room: str, members: list[Person]) -> Callable[[], Awaitable[None]]:
    async def look() -> None:
        joined = (await person.get(path_of("/v3/rooms", room, "joined_members")))["joined"]
        assert set(joined) == {member.user_id for member in members}

    return look


async def test_who_lets_somebody_in_has_no_say_about_the_state_of_a_room_that_is_here(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="11")
    powers = {alice.user_id: 100, f"@guest:{peer.name}": 60}
    await alice.sets(room, "m.room.power_levels", {"users": powers, "invite": 50})
    await alice.sets(room, "m.room.topic", {"topic": "stays"})
    guest = await PeerInRoom.joins(peer, homeserver, room)
    rules = guest.builds("m.room.join_rules", allowing(f"!lobby:{peer.name}"), "")
    guest.state[rules.key] = rules
    assert await guest.sends(rules) == {rules.event_id: {}}

    lets_in(guest, bob.user_id, without="m.room.topic")
    await bob.post(path_of("/v3/join", room), {})
    said = await bob.says(room, "here I am")
    assert said in await read(alice, room)
    topic = await alice.get(path_of("/v3/rooms", room, "state", "m.room.topic"))
    assert topic == {"topic": "stays"}


async def test_another_server_cannot_let_somebody_in_in_the_name_of_a_user_of_ours(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="11")
    await alice.sets(room, "m.room.power_levels", {"users": {alice.user_id: 100}, "invite": 50})
    guest = await PeerInRoom.joins(peer, homeserver, room)
    sent = guest.received()
    await alice.sets(room, "m.room.join_rules", allowing(f"!lobby:{peer.name}"))
    await until(alice, takes_rules(guest, sent))
    lets_in(guest, bob.user_id, by=alice.user_id)
    with pytest.raises(Refused):
        await bob.post(path_of("/v3/join", room), {})
    members = (await alice.get(path_of("/v3/rooms", room, "joined_members")))["joined"]
    assert bob.user_id not in members


async def test_a_room_that_this_server_has_left_does_not_say_who_is_let_into_another(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    lobby = await alice.creates_room(preset="public_chat")
    room = await alice.creates_room(room_version="11")
    await alice.sets(room, "m.room.join_rules", allowing(lobby))
    guest = await PeerInRoom.joins(peer, homeserver, lobby)
    path = f"{path_of(f'{V1}/make_join', room, guest.user_id)}?ver=11"
    described = path_of(f"{V1}/hierarchy", room)
    assert (await peer.asks(homeserver, "GET", path)).status == 200
    assert (await peer.asks(homeserver, "GET", described)).status == 200
    await alice.leaves(lobby)
    answer = await peer.asks(homeserver, "GET", path)
    assert (answer.status, answer.json["errcode"]) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")
    assert (await peer.asks(homeserver, "GET", described)).status == 404


async def test_a_colleague_gets_into_a_room_that_only_another_department_may_open(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with departments(tmp_path, dialect, 2) as (a, b):
        alice = await a.person("alice")
        bob, carol = await b.person("bob"), await b.person("carol")
        lobby = await alice.creates_room(preset="public_chat")
        office = await alice.creates_room(preset="public_chat", room_version="11")
        await alice.sets(
            office, "m.room.power_levels", {"users": {alice.user_id: 100}, "invite": 50}
        )
        await alice.sets(office, "m.room.join_rules", allowing(lobby))
        for person in (bob, carol):
            await joins(person, lobby, a)
        await until(alice, sees(alice, lobby, [alice, bob, carol]))
        for person in (bob, carol):
            await joins(person, office, a)
        for person in (alice, bob, carol):
            await until(person, sees(person, office, [alice, bob, carol]))
        said = await alice.says(office, "welcome")

        async def heard() -> None:
            assert said in await read(carol, office)

        await until(carol, heard)
