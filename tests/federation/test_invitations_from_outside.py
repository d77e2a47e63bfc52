"""Invitations to rooms that the server of whom they are for is not in."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio
from aiohttp import web

from yizhan_testing.appservice import running_bridge
from yizhan_testing.departments import departments
from yizhan_testing.polling import until
from yizhan_testing.sliding_client import ClassicClient, SlidingClient, room_list

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person

JsonObject = dict[str, Any]


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2) as servers:
        yield servers


@asynccontextmanager
async def gateway() -> AsyncIterator[tuple[str, asyncio.Queue[JsonObject]]]:
    """Run a push gateway; gives its address and what it is told."""
    told: asyncio.Queue[JsonObject] = asyncio.Queue()

    async def take(request: web.BaseRequest) -> web.Response:
        told.put_nowait((await request.json())["notification"])
        return web.json_response({"rejected": []})

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/_matrix/push/v1/notify", told
    finally:
        await runner.cleanup()


async def subscribes(person: Person, url: str) -> None:
    await person.post(
        "/v3/pushers/set",
        {
            "kind": "http", "app_id": "phone", "app_display_name": "Phone",
            "device_display_name": "phone", "pushkey": f"key of {person.user_id}", "lang": "zh",
            "data": {"url": url},
        },
    )  # fmt: skip


async def ignores(person: Person, other: Person) -> None:
    await person.put(
        f"/v3/user/{quote(person.user_id)}/account_data/m.ignored_user_list",
        {"ignored_users": {other.user_id: {}}},
    )


async def test_a_phone_hears_of_an_invitation_from_another_server(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with (
        gateway() as (url, told),
        departments(tmp_path, dialect, 2, None, **{"outbound.allow": ["127.0.0.1"]}) as (a, b),
    ):
        alice, mallory = await a.person("alice"), await a.person("mallory")
        bob, carol = await b.person("bob"), await b.person("carol")
        for person in (bob, carol):
            await subscribes(person, url)
        await ignores(bob, mallory)
        await mallory.creates_room(name="spam", invite=[bob])
        await alice.put(f"/v3/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
        room = await alice.creates_room(name="budget", invite=[bob])

        async with asyncio.timeout(20):
            heard = await told.get()
        assert heard["room_id"] == room
        assert (heard["room_name"], heard["sender"]) == ("budget", alice.user_id)
        assert heard["sender_display_name"] == "Alice"
        assert (heard["membership"], heard["user_is_target"]) == ("invite", True)
        assert heard["devices"][0]["pushkey"] == f"key of {bob.user_id}"

        # Once; what comes next is about something else.
        await bob.joins(room)
        await bob.says(room, "hello")
        await alice.says(room, "welcome")
        async with asyncio.timeout(20):
            while (heard := await told.get()).get("type") is None:
                pass
        assert heard["content"]["body"] == "welcome"


async def test_a_bridge_hears_of_an_invitation_from_another_server(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with running_bridge() as bridge:
        file = bridge.writes_registration(tmp_path)
        overrides: Any = {"appservices.registrations": [str(file)]}
        async with departments(tmp_path, dialect, 2, None, **overrides) as (a, b):
            alice = await a.person("alice")
            puppet = (await bridge.registers(b, "_bridge_bob")).user_id
            room = await alice.creates_room()
            await alice.post(f"/v3/rooms/{quote(room)}/invite", {"user_id": puppet})

            def bridge_knows() -> bool:
                told = [
                    event
                    for taken in bridge.arrived
                    for event in taken.body["events"]
                    if event.get("state_key") == puppet and event["room_id"] == room
                ]
                return [event["content"]["membership"] for event in told] == ["invite"]

            await bridge.until(bridge_knows)


async def test_both_syncs_show_an_invitation_from_another_server(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, mallory = await a.person("alice"), await a.person("mallory")
    bob = await b.person("bob")
    sliding, classic = SlidingClient(bob, {"lists": {"all": room_list(20)}}), ClassicClient(bob)
    await sliding.syncs()
    await classic.syncs()
    await ignores(bob, mallory)
    room = await alice.creates_room(name="budget", invite=[bob])
    await mallory.creates_room(name="spam", invite=[bob])

    await classic.syncs()
    answer = await sliding.syncs()
    assert list(classic.of("invite")) == list(sliding.of("invite")) == [room]
    told = {
        (event["type"], event["state_key"]): event["content"]
        for event in answer.rooms[room]["invite_state"]
    }
    assert told["m.room.name", ""] == {"name": "budget"}
    assert told["m.room.member", bob.user_id]["membership"] == "invite"

    await bob.leaves(room)
    for client in (sliding, classic):
        await client.syncs()
        assert not client.of("invite")


async def test_who_takes_no_invitations_gets_none_from_elsewhere_either(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    await bob.put(
        f"/v3/user/{quote(bob.user_id)}/account_data/m.invite_permission_config",
        {"default_action": "block"},
    )
    room = await alice.creates_room()
    refused = await alice.refused(
        "POST", f"/v3/rooms/{quote(room)}/invite", {"user_id": bob.user_id}
    )
    assert (refused.status, refused.errcode) == (403, "M_INVITE_BLOCKED")
    assert "invite" not in (await bob.syncs()).body.get("rooms", {})


async def test_a_room_that_was_declined_and_forgotten_can_be_entered_later(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(name="budget", invite=[bob])
    await bob.leaves(room)
    await bob.post(f"/v3/rooms/{quote(room)}/forget", {})
    assert room not in str((await bob.syncs(full_state="true")).body.get("rooms", {}))

    async def declined() -> None:
        path = f"/v3/rooms/{quote(room)}/state/m.room.member/{quote(bob.user_id)}"
        assert (await alice.get(path))["membership"] == "leave"

    await until(alice, declined)
    await alice.invites(room, bob)
    assert (await bob.syncs()).room(room, "invite")
    await bob.joins(room)
    await bob.says(room, "now I am here")

    async def arrived() -> None:
        answer = await alice.get(f"/v3/rooms/{quote(room)}/messages", dir="b", limit="5")
        assert "now I am here" in str(answer)

    await until(alice, arrived)


async def test_who_is_no_longer_banned_can_be_invited_again(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    path = f"/v3/rooms/{quote(room, safe='')}"
    await alice.post(f"{path}/ban", {"user_id": bob.user_id})

    async def is_out() -> None:
        assert room not in (await bob.get("/v3/joined_rooms"))["joined_rooms"]

    await until(bob, is_out)
    await alice.post(f"{path}/unban", {"user_id": bob.user_id})
    await alice.invites(room, bob)
    await bob.joins(room)


async def test_an_invitation_by_a_member_event_of_ones_own_is_told_to_the_other_server(
    pair: list[HomeserverInProcess],
) -> None:
    alice, bob = await pair[0].person("alice"), await pair[1].person("bob")
    room = await alice.creates_room()
    content = {"membership": "invite", "reason": "come"}
    await alice.sets(room, "m.room.member", content, bob.user_id)
    found = (await bob.syncs()).room(room, "invite")["invite_state"]["events"]
    assert found[-1]["content"] == content
    await bob.joins(room)
    member = {"type": "m.room.member", "state_key": bob.user_id, "content": content}
    refused = await alice.refused("POST", "/v3/createRoom", {"initial_state": [member]})
    assert refused.errcode == "M_INVALID_PARAM"
