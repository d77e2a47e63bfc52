"""People of two departments in one room."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from yizhan_testing.departments import departments
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2) as servers:
        yield servers


async def joins(person: Person, room: str, via: HomeserverInProcess) -> None:
    await person.call(
        "POST", f"/v3/join/{quote(room, safe='')}", {}, params={"via": via.server_name}
    )


async def texts(person: Person, room: str) -> list[str]:
    page = await person.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="100")
    return [
        event["content"]["body"]
        for event in reversed(page["chunk"])
        if event["type"] == "m.room.message"
    ]


@pytest.mark.parametrize("version", ["1", "2", "3", "6", "9", "10", "11", "12"])
async def test_two_departments_talk_in_one_room(
    pair: list[HomeserverInProcess], version: str
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat", room_version=version)
    await alice.says(room, "first")

    await joins(bob, room, a)
    sent = await bob.says(room, "good morning")

    async def alice_reads() -> None:
        assert "good morning" in await texts(alice, room)

    await until(alice, alice_reads)
    await alice.says(room, "and to you")

    async def bob_reads() -> None:
        assert "and to you" in await texts(bob, room)

    await until(bob, bob_reads)
    seen = await alice.get(f"/v3/rooms/{quote(room, safe='')}/event/{quote(sent, safe='')}")
    assert seen["sender"] == bob.user_id


async def test_an_invitation_crosses_and_is_accepted(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    await bob.syncs()
    room = await alice.creates_room(name="budget", invite=[bob])

    answer = await bob.syncs(timeout_ms=5000)
    state = answer.room(room, "invite")["invite_state"]["events"]
    assert {"budget"} == {e["content"]["name"] for e in state if e["type"] == "m.room.name"}
    await bob.joins(room)
    await bob.says(room, "here I am")

    async def alice_reads() -> None:
        assert await texts(alice, room) == ["here I am"]

    await until(alice, alice_reads)


async def test_an_invitation_is_declined(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(invite=[bob])
    await bob.syncs()
    await bob.leaves(room)
    assert room in (await bob.syncs()).body["rooms"]["leave"]

    async def alice_learns() -> None:
        member = await alice.get(
            f"/v3/rooms/{quote(room, safe='')}/state/m.room.member/{bob.user_id}"
        )
        assert member["membership"] == "leave"

    await until(alice, alice_learns)


async def test_who_has_left_is_invited_anew_and_declines(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    await joins(bob, room, a)
    await bob.leaves(room)

    async def alice_learns() -> None:
        path = f"/v3/rooms/{quote(room, safe='')}/state/m.room.member/{bob.user_id}"
        assert (await alice.get(path))["membership"] == "leave"

    await until(alice, alice_learns)
    await bob.syncs()
    since = bob.since
    assert since is not None
    await alice.invites(room, bob)
    assert room in (await bob.syncs(timeout_ms=5000)).body["rooms"]["invite"]
    invited = bob.since

    await bob.leaves(room)

    assert room in (await bob.syncs()).body["rooms"]["leave"]
    assert bob.since != invited
    # A device that was away for all of it has learnt of the first departure already.
    away = await bob.get("/v3/sync", since=since)
    assert "invite" not in away.get("rooms", {})


async def test_many_speak_at_once_and_all_agree(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    await joins(bob, room, a)
    await alice.sets(
        room,
        "m.room.power_levels",
        {"users": {bob.user_id: 50}, "state_default": 50},
    )

    async def levels_arrive() -> None:
        levels = await bob.get(f"/v3/rooms/{quote(room, safe='')}/state/m.room.power_levels")
        assert levels["users"]

    await until(bob, levels_arrive)

    async def speaks(person: Person, name: str) -> None:
        for number in range(10):
            await person.says(room, f"{name} {number}")
            if number % 3 == 0:
                await person.sets(room, "m.room.topic", {"topic": f"{name} {number}"})

    await asyncio.gather(speaks(alice, "alice"), speaks(bob, "bob"))
    expected = {f"{name} {number}" for name in ("alice", "bob") for number in range(10)}

    async def both_read_all() -> None:
        assert set(await texts(alice, room)) == expected
        assert set(await texts(bob, room)) == expected

    await until(alice, both_read_all)
    await alice.says(room, "done")

    async def both_agree() -> None:
        states = []
        for person in (alice, bob):
            events: Any = await person.get(f"/v3/rooms/{quote(room, safe='')}/state")
            states.append({(e["type"], e["state_key"]): e["event_id"] for e in events})
        assert states[0] == states[1]

    await until(alice, both_agree)
