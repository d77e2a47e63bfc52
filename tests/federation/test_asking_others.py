"""What people ask of their own server, and another one has to answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from yizhan_testing.departments import departments
from yizhan_testing.homeserver import Refused
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.later_clock import LaterClock
    from yizhan_testing.peer import Peer

PROFILE = "/_matrix/federation/v1/query/profile"
DIRECTORY = "/_matrix/federation/v1/query/directory"
MAKE_JOIN = "/_matrix/federation/v1/make_join/"


@pytest_asyncio.fixture
async def pair(
    tmp_path: Path, dialect: Dialect, clock: LaterClock
) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2, clock=clock) as servers:
        yield servers


def of(path: str, name: str) -> str:
    return f"{path}/{quote(name, safe='')}"


async def gives_alias(person: Person, server: HomeserverInProcess, room: str, name: str) -> str:
    alias = f"#{name}:{server.server_name}"
    await person.put(of("/v3/directory/room", alias), {"room_id": room})
    return alias


# region aliases


async def test_a_room_is_joined_by_an_alias_of_another_server(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    alias = await gives_alias(alice, a, room, "canteen")

    found = await bob.get(of("/v3/directory/room", alias))
    assert found == {"room_id": room, "servers": [a.server_name]}
    joined = await bob.post(of("/v3/join", alias), {})
    assert joined == {"room_id": room}
    await bob.says(room, "what is for lunch")

    async def b_is_named() -> None:
        answer = await alice.get(of("/v3/directory/room", alias))
        assert answer["servers"] == [a.server_name, b.server_name]

    await until(alice, b_is_named)


async def test_an_alias_that_has_moved_leads_to_its_new_room_at_once(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    old = await alice.creates_room(preset="public_chat")
    alias = await gives_alias(alice, a, old, "canteen")
    assert await bob.post(of("/v3/join", alias), {}) == {"room_id": old}
    await alice.delete(of("/v3/directory/room", alias))
    assert (await bob.refused("POST", of("/v3/join", alias), {})).status == 404

    new = await alice.creates_room(preset="public_chat")
    await gives_alias(alice, a, new, "canteen")
    assert await bob.post(of("/v3/join", alias), {}) == {"room_id": new}


async def test_why_another_server_lets_nobody_in_is_passed_on(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    for status, errcode, told in (
        (400, "M_INVENTED_LATER", (400, "M_INVENTED_LATER")),
        (403, "ORG.EXAMPLE.CLOSED", (403, "ORG.EXAMPLE.CLOSED")),
        (400, "not a code", (502, "M_UNKNOWN")),
        (403, "M_RESOURCE_LIMIT_EXCEEDED", (502, "M_UNKNOWN")),
    ):

        async def refuses(
            _: web.BaseRequest, status: int = status, errcode: str = errcode
        ) -> web.StreamResponse:
            return web.json_response({"errcode": errcode, "error": "denied"}, status=status)

        peer.handlers_below[MAKE_JOIN] = refuses
        refused = await alice.refused("POST", of("/v3/join", f"!r:{peer.name}"), {})
        assert (refused.status, refused.errcode) == told


async def test_one_knocks_by_an_alias_of_another_server(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )
    alias = await gives_alias(alice, a, room, "closed")
    assert (await bob.post(of("/v3/knock", alias), {"reason": "please"}))["room_id"] == room
    member = await alice.get(of(f"/v3/rooms/{quote(room)}/state/m.room.member", bob.user_id))
    assert (member["membership"], member["reason"]) == ("knock", "please")


async def test_an_alias_of_another_server_may_name_a_room(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat", room_version="11")
    other = await alice.creates_room(preset="public_chat")
    alias = await gives_alias(alice, a, room, "ours")
    wrong = await gives_alias(alice, a, other, "theirs")
    await bob.post(of("/v3/join", alias), {})
    await alice.sets(room, "m.room.power_levels", {"users": {bob.user_id: 100, alice.user_id: 100}})

    async def bob_has_power() -> None:
        state = f"/v3/rooms/{quote(room)}/state/m.room.power_levels"
        assert bob.user_id in (await bob.get(state))["users"]

    await until(bob, bob_has_power)
    path = f"/v3/rooms/{quote(room)}/state/m.room.canonical_alias"
    assert await bob.put(path, {"alias": alias})
    refused = await bob.refused("PUT", path, {"alias": wrong})
    assert refused.errcode == "M_BAD_ALIAS"


async def test_who_is_no_account_here_asks_no_other_server(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    alias = await gives_alias(alice, a, room, "canteen")
    for path in (of("/v3/directory/room", alias), of("/v3/profile", alice.user_id)):
        async with b.http.get(f"{b.base_url}/_matrix/client{path}") as response:
            assert response.status == 401
            assert (await response.json())["errcode"] == "M_MISSING_TOKEN"
    assert (await bob.get(of("/v3/directory/room", alias)))["room_id"] == room


async def test_an_alias_that_leads_nowhere_or_astray(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer, stranger: Peer
) -> None:
    room = await alice.creates_room()
    lies: list[dict[str, Any]] = [
        {},
        {"room_id": "no room", "servers": []},
        {"room_id": room, "servers": "all"},
        {"room_id": room, "servers": [1]},
        {"room_id": ["x"], "servers": []},
    ]
    for number, lie in enumerate(lies):
        peer.answers["GET", DIRECTORY] = lie
        refused = await alice.refused("GET", of("/v3/directory/room", f"#lie{number}:{peer.name}"))
        assert refused.status == 502
    refused = await alice.refused("GET", of("/v3/directory/room", f"#any:{stranger.name}"))
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert not stranger.asked

    peer.answers["GET", DIRECTORY] = {"room_id": "!r:x", "servers": ["not a name", "x.example"]}
    found = await alice.get(of("/v3/directory/room", f"#right:{peer.name}"))
    assert found == {"room_id": "!r:x", "servers": ["x.example", peer.name]}


# region profiles


async def test_the_profile_of_somebody_elsewhere(
    pair: list[HomeserverInProcess], clock: LaterClock
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    await alice.put(of("/v3/profile", alice.user_id) + "/displayname", {"displayname": "爱丽丝"})
    path = of("/v3/profile", alice.user_id)
    assert (await bob.get(path))["displayname"] == "爱丽丝"
    assert await bob.get(f"{path}/displayname") == {"displayname": "爱丽丝"}
    assert (await bob.refused("GET", f"{path}/avatar_url")).errcode == "M_NOT_FOUND"
    nobody = of("/v3/profile", f"@nobody:{a.server_name}")
    assert (await bob.refused("GET", nobody)).errcode == "M_NOT_FOUND"

    await alice.put(f"{path}/displayname", {"displayname": "A."})
    assert (await bob.get(path))["displayname"] == "爱丽丝"
    clock.later_ms = 61_000
    assert (await bob.get(path))["displayname"] == "A."


async def test_an_invitation_carries_the_name_that_somebody_has_elsewhere(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    await bob.put(of("/v3/profile", bob.user_id) + "/displayname", {"displayname": "Bob B."})
    room = await alice.creates_room(invite=[bob])
    member = await alice.get(of(f"/v3/rooms/{quote(room)}/state/m.room.member", bob.user_id))
    assert (member["membership"], member["displayname"]) == ("invite", "Bob B.")


async def test_an_invitation_that_is_answered_with_something_else_is_none(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    room = await alice.creates_room(room_version="11")
    lies: list[dict[str, Any]] = [
        {"half": 1.5}, {"content": {"membership": "join"}}, {"sender": "@x:y.example"}
    ]  # fmt: skip
    for lie in lies:

        async def answers(
            request: web.BaseRequest, lie: dict[str, Any] = lie
        ) -> web.StreamResponse:
            invitation = orjson.loads(await request.read())["event"]
            return web.json_response({"event": {**invitation, **lie}})

        peer.handlers_below["/_matrix/federation/v2/invite/"] = answers
        body = {"user_id": f"@carol:{peer.name}"}
        refused = await alice.refused("POST", f"/v3/rooms/{quote(room)}/invite", body)
        # An app would ask again and again after a 502.
        assert (refused.status, refused.errcode) == (400, "M_BAD_JSON")
    members: Any = await alice.get(f"/v3/rooms/{quote(room)}/members")
    assert [event["state_key"] for event in members["chunk"]] == [alice.user_id]


async def test_who_is_invited_takes_nothing_out_of_the_invitation(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    async def answers(request: web.BaseRequest) -> web.StreamResponse:
        invitation = orjson.loads(await request.read())["event"]
        return web.json_response({"event": {**invitation, "content": {"membership": "invite"}}})

    peer.handlers_below["/_matrix/federation/v2/invite/"] = answers
    room = await alice.creates_room(room_version="11")
    carol = f"@carol:{peer.name}"
    await alice.post(f"/v3/rooms/{quote(room)}/invite", {"user_id": carol, "reason": "tea"})
    member = await alice.get(of(f"/v3/rooms/{quote(room)}/state/m.room.member", carol))
    assert (member["membership"], member["reason"]) == ("invite", "tea")


async def test_many_ask_and_the_other_server_is_asked_once(
    homeserver: HomeserverInProcess, alice: Person, bob: Person, peer: Peer
) -> None:
    peer.answers["GET", PROFILE] = {
        "displayname": "Carol", "avatar_url": None, "m.tz": 7, "UPPER": 1, "org.example.x": [1],
    }  # fmt: skip
    path = of("/v3/profile", f"@carol:{peer.name}")
    profiles = await asyncio.gather(*(person.get(path) for person in (alice, bob) * 5))
    assert profiles == [{"displayname": "Carol", "org.example.x": [1]}] * 10
    assert peer.count(PROFILE) == 1


async def test_another_server_cannot_sign_anybody_out(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    for number, (status, errcode) in enumerate(
        ((401, "M_UNKNOWN_TOKEN"), (403, "M_USER_SUSPENDED"), (403, "M_USER_LOCKED"))
    ):

        async def refuses(
            _: web.BaseRequest, status: int = status, errcode: str = errcode
        ) -> web.StreamResponse:
            return web.json_response({"errcode": errcode, "error": "go away"}, status=status)

        peer.answers["GET", PROFILE] = refuses
        path = of("/v3/profile", f"@user{number}:{peer.name}")
        refused = await alice.refused("GET", path)
        assert (refused.status, refused.errcode) == (502, "M_UNKNOWN")
        peer.handlers_below[MAKE_JOIN] = refuses
        refused = await alice.refused("POST", of("/v3/join", f"!r:{peer.name}"), {})
        assert (refused.status, refused.errcode) == (502, "M_UNKNOWN")


async def test_how_much_one_user_may_have_others_asked_is_limited(
    tmp_path: Path, dialect: Dialect
) -> None:
    limited: dict[str, Any] = {
        "rate_limits.enabled": True,
        "rate_limits.questions": {"per_second": 0.001, "burst": 2},
    }
    async with departments(tmp_path, dialect, 2, **limited) as (a, b):
        alice, bob, carol = await a.person("alice"), await b.person("bob"), await b.person("carol")
        await bob.get(of("/v3/profile", alice.user_id))
        for name, status in (("x", 404), ("y", 429)):
            refused = await bob.refused("GET", of("/v3/profile", f"@{name}:{a.server_name}"))
            assert refused.status == status
        # What is here already costs nothing, and others may go on.
        assert await bob.get(of("/v3/profile", alice.user_id)) is not None
        assert await carol.get(of("/v3/profile", alice.user_id)) is not None


# region directories


async def test_the_published_rooms_of_another_server(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat", visibility="public", name="Canteen")
    await alice.creates_room(preset="public_chat", visibility="public", name="Garden")

    every = await bob.get("/v3/publicRooms", server=a.server_name)
    assert {each["name"] for each in every["chunk"]} == {"Canteen", "Garden"}
    first = await bob.get("/v3/publicRooms", server=a.server_name, limit="1")
    second = await bob.get(
        "/v3/publicRooms", server=a.server_name, limit="1", since=first["next_batch"]
    )
    assert {each["chunk"][0]["name"] for each in (first, second)} == {"Canteen", "Garden"}
    found = await bob.call(
        "POST", "/v3/publicRooms", {"filter": {"generic_search_term": "CANTEEN"}},
        params={"server": a.server_name},
    )  # fmt: skip
    assert [each["room_id"] for each in found["chunk"]] == [room]
    assert found["chunk"][0]["num_joined_members"] == 1
    assert (await bob.get("/v3/publicRooms"))["chunk"] == []


async def test_what_is_no_room_in_anothers_list_is_left_out(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    right = {
        "room_id": "!r:x", "num_joined_members": 3, "world_readable": False,
        "guest_can_join": True, "name": "Right",
    }  # fmt: skip
    wrong: list[Any] = [
        1, "x", None, [], {}, {**right, "room_id": 1}, {**right, "num_joined_members": "3"},
        {**right, "num_joined_members": True},
    ]  # fmt: skip
    peer.answers["POST", "/_matrix/federation/v1/publicRooms"] = {
        "chunk": [*wrong, {**right, "name": {}, "extra": 1}], "next_batch": 3,
        "total_room_count_estimate": "x",
    }  # fmt: skip
    found = await alice.get("/v3/publicRooms", server=peer.name)
    assert found == {"chunk": [{key: right[key] for key in right if key != "name"}]}
    peer.answers["POST", "/_matrix/federation/v1/publicRooms"] = {"chunk": {}}
    with pytest.raises(Refused, match="502"):
        await alice.get("/v3/publicRooms", server=peer.name)
