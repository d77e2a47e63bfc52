"""A room that several servers are in is replaced by another, and all of them follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio

from yizhan_testing.departments import departments_with_doors
from yizhan_testing.peer_rooms import PeerInRoom
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.departments import Department
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[list[Department]]:
    async with departments_with_doors(tmp_path, dialect, 2) as servers:
        yield servers


def of(path: str, name: str) -> str:
    return f"{path}/{quote(name, safe='')}"


async def gives_alias(person: Person, server: HomeserverInProcess, room: str, name: str) -> str:
    alias = f"#{name}:{server.server_name}"
    await person.put(of("/v3/directory/room", alias), {"room_id": room})
    return alias


async def publishes(person: Person, room: str) -> None:
    await person.put(of("/v3/directory/list/room", room), {"visibility": "public"})


async def joins(person: Person, room: str, via: HomeserverInProcess) -> None:
    await person.call("POST", of("/v3/join", room), {}, params={"via": via.server_name})


async def upgrades(person: Person, room: str, version: str = "12") -> str:
    path = f"/v3/rooms/{quote(room, safe='')}/upgrade"
    new: str = (await person.post(path, {"new_version": version}))["replacement_room"]
    return new


async def state(reader: Person, room: str) -> dict[tuple[str, str], JsonObject]:
    events: Any = await reader.get(f"/v3/rooms/{quote(room, safe='')}/state")
    return {(event["type"], event["state_key"]): event["content"] for event in events}


async def sees_replaced(person: Person, old: str, new: str) -> None:
    """Return when the person sees the tombstone."""

    async def tombstone() -> None:
        content = (await state(person, old)).get(("m.room.tombstone", ""), {})
        assert content.get("replacement_room") == new

    await until(person, tombstone)


async def target(person: Person, alias: str) -> str:
    room: str = (await person.get(of("/v3/directory/room", alias)))["room_id"]
    return room


async def listed(person: Person) -> list[str]:
    return [room["room_id"] for room in (await person.get("/v3/publicRooms"))["chunk"]]


async def test_aliases_directories_powers_and_bans_move_on_all_servers(
    pair: list[Department],
) -> None:
    a, b = pair
    alice, bob, mallory = await a.person("alice"), await b.person("bob"), await b.person("mallory")
    old = await alice.creates_room(preset="public_chat", room_version="11", name="canteen")
    for person in (bob, mallory):
        await joins(person, old, a)
    await alice.sets(
        old, "m.room.power_levels", {"users": {alice.user_id: 100, bob.user_id: 60}, "ban": 50}
    )
    await alice.post(f"/v3/rooms/{quote(old)}/ban", {"user_id": mallory.user_id})

    async def bob_has_power() -> None:
        levels = (await state(bob, old))["m.room.power_levels", ""]
        assert levels["users"].get(bob.user_id) == 60

    await until(bob, bob_has_power)
    ours, theirs = await gives_alias(alice, a, old, "ours"), await gives_alias(bob, b, old, "b")
    for person in (alice, bob):
        await publishes(person, old)
    tags = f"/v3/user/{quote(bob.user_id)}/rooms"
    await bob.put(f"{tags}/{quote(old)}/tags/m.favourite", {"order": 0.5})

    new = await upgrades(alice, old)
    await sees_replaced(bob, old, new)
    # Until somebody of b has gone there, b has nothing to lead to.
    assert await target(bob, theirs) == old
    await joins(bob, new, a)
    for person in (alice, bob):
        assert await target(person, ours) == new
        assert await target(person, theirs) == new
        assert await listed(person) == [new]
    tagged = await bob.get(f"{tags}/{quote(new)}/tags")
    assert tagged == {"tags": {"m.favourite": {"order": 0.5}}}

    carried = await state(bob, new)
    assert carried["m.room.power_levels", ""]["users"] == {bob.user_id: 60}
    assert carried["m.room.name", ""] == {"name": "canteen"}
    assert carried["m.room.create", ""]["predecessor"]["room_id"] == old
    await bob.sets(new, "m.room.topic", {"topic": "bob has his power here, too"})
    path = f"{of('/v3/join', new)}?via={quote(a.server_name)}"
    assert (await mallory.refused("POST", path, {})).status == 403


async def test_who_is_in_the_new_room_before_the_tombstone_comes_follows_as_well(
    pair: list[Department],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    old = await alice.creates_room(preset="public_chat", room_version="10")
    await joins(bob, old, a)
    alias = await gives_alias(bob, b, old, "canteen")
    path = f"/v3/pushrules/global/room/{quote(old)}"
    await bob.put(path, {"actions": []})

    await b.door.closes()
    new = await upgrades(alice, old, "11")
    await joins(bob, new, a)
    assert ("m.room.tombstone", "") not in await state(bob, old)
    assert await target(bob, alias) == old
    await b.door.opens()
    # Whoever asks has the other server try again at once.
    await bob.says(old, "anybody here?")
    await sees_replaced(bob, old, new)

    async def alias_leads_there() -> None:
        assert await target(bob, alias) == new

    await until(bob, alias_leads_there)

    async def rule_has_come() -> None:
        # People's settings follow after the names.
        rules = (await bob.get("/v3/pushrules/global/"))["room"]
        assert [rule["actions"] for rule in rules if rule["rule_id"] == new] == [[]]

    await until(bob, rule_has_come)


async def test_names_follow_a_tombstone_that_has_to_be_fetched(
    homeserver: HomeserverInProcess, peer: Peer, bob: Person
) -> None:
    old = await bob.creates_room(preset="public_chat", room_version="10")
    guest = await PeerInRoom.joins(peer, homeserver, old)
    levels = {"users": {bob.user_id: 100, guest.user_id: 100}}
    await bob.sets(old, "m.room.power_levels", levels)
    guest = await PeerInRoom.joins(peer, homeserver, old)
    alias = await gives_alias(bob, homeserver, old, "canteen")
    new = await bob.creates_room(
        preset="public_chat", creation_content={"predecessor": {"room_id": old}}
    )
    closed = guest.builds("m.room.tombstone", {"body": "moved", "replacement_room": new}, "")
    said = guest.says("see you there")
    guest.gives_missing(closed)
    assert await guest.sends(said) == {said.event_id: {}}
    assert await target(bob, alias) == new


async def test_nothing_moves_to_a_room_that_only_says_that_it_is_the_next(
    pair: list[Department],
) -> None:
    a, b = pair
    mallory, bob = await a.person("mallory"), await b.person("bob")
    old = await bob.creates_room(preset="public_chat", room_version="10")
    await joins(mallory, old, b)
    alias = await gives_alias(bob, b, old, "canteen")
    await publishes(bob, old)
    trap = await mallory.creates_room(
        preset="public_chat", creation_content={"predecessor": {"room_id": old}}
    )
    await joins(bob, trap, a)
    assert await target(bob, alias) == old
    assert await listed(bob) == [old]


async def test_a_room_that_has_become_private_is_not_listed(pair: list[Department]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    old = await alice.creates_room(preset="public_chat", room_version="10")
    await joins(bob, old, a)
    alias = await gives_alias(bob, b, old, "canteen")
    levels = {"users": {alice.user_id: 100, bob.user_id: 100}}
    await alice.sets(old, "m.room.power_levels", levels)

    async def bob_has_power() -> None:
        assert bob.user_id in (await state(bob, old))["m.room.power_levels", ""]["users"]

    await until(bob, bob_has_power)
    await publishes(bob, old)
    new = await alice.creates_room(
        preset="private_chat", invite=[bob], creation_content={"predecessor": {"room_id": old}}
    )
    await alice.sets(old, "m.room.tombstone", {"body": "moved", "replacement_room": new})
    await sees_replaced(bob, old, new)
    await bob.joins(new)
    assert await target(bob, alias) == new
    assert await listed(bob) == []
