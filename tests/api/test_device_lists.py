"""Whom /sync and /keys/changes tell about changed devices, over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from yizhan_testing.crypto_identity import CrossSigningIdentity, CryptoDevice, public_key
from yizhan_testing.polling import polls

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person

JsonObject = dict[str, Any]


async def uploads_keys(person: Person) -> CryptoDevice:
    device = CryptoDevice(person.user_id, person.device_id)
    await person.post("/v3/keys/upload", {"device_keys": device.keys()})
    return device


async def hears(person: Person) -> JsonObject:
    """Sync once; /keys/changes must say of the same time what the answer says."""
    before = person.since
    heard: JsonObject = (await person.syncs()).body.get("device_lists", {})
    if before is not None:
        changes = await person.call(
            "GET", "/v3/keys/changes", params={"from": before, "to": person.since or ""}
        )
        assert {name: users for name, users in changes.items() if users} == heard
    return heard


async def shared_room(host: Person, *guests: Person) -> str:
    room = await host.creates_room(invite=list(guests))
    for guest in guests:
        await guest.joins(room)
    return room


async def test_those_who_share_a_room_hear_of_changed_devices_and_nobody_else(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    await shared_room(alice, bob)
    await shared_room(carol)
    for person in (alice, bob, carol):
        await hears(person)
    await uploads_keys(bob)
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(bob) == {"changed": [bob.user_id]}
    assert await hears(carol) == {}
    assert await hears(alice) == {}

    await bob.post("/v3/keys/upload", {"one_time_keys": {"signed_curve25519:A": {"key": "x"}}})
    assert await hears(alice) == {}
    await bob.post("/v3/logout", {})
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(carol) == {}


async def test_a_long_poll_ends_when_somebodys_devices_change(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    await shared_room(alice, bob)
    await alice.syncs()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        poll = tasks.create_task(alice.syncs(timeout_ms=60_000))
        await polls(homeserver, alice)
        await uploads_keys(bob)
    assert poll.result().body["device_lists"] == {"changed": [bob.user_id]}


async def test_a_device_is_news_when_it_begins_and_ends_even_without_keys(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    await shared_room(alice, bob)
    for person in (alice, bob):
        await hears(person)
    other = await homeserver.signs_in("bob", device_id="OTHER")
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(bob) == {"changed": [bob.user_id]}

    other = await homeserver.signs_in("bob", device_id="OTHER")
    assert await hears(alice) == {}
    assert await hears(bob) == {}
    await other.post("/v3/logout", {})
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(bob) == {"changed": [bob.user_id]}


async def test_ones_open_list_of_devices_learns_at_once_that_another_one_signed_in(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    await alice.syncs()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        poll = tasks.create_task(alice.syncs(timeout_ms=60_000))
        await polls(homeserver, alice)
        await homeserver.signs_in("alice")
    assert poll.result().body["device_lists"] == {"changed": [alice.user_id]}


async def test_sharing_a_first_room_is_a_change_and_leaving_the_last_one_too(
    alice: Person, bob: Person
) -> None:
    for person in (alice, bob):
        await hears(person)
    room = await alice.creates_room(invite=[bob])
    await hears(alice)
    assert await hears(bob) == {}
    await bob.joins(room)
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(bob) == {"changed": [alice.user_id]}

    second = await alice.creates_room(invite=[bob])
    await bob.joins(second)
    assert await hears(bob) == {}
    await bob.leaves(second)
    assert await hears(alice) == {}
    assert await hears(bob) == {}
    await bob.leaves(room)
    assert await hears(alice) == {"left": [bob.user_id]}
    assert await hears(bob) == {"left": [alice.user_id]}


async def test_whoever_is_invited_to_a_first_room_is_a_change_since_messages_are_for_them_too(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    await shared_room(alice, carol)
    room = await alice.creates_room()
    for person in (alice, bob, carol):
        await hears(person)
    await alice.invites(room, bob)
    await alice.invites(room, carol)  # of whom alice is kept up to date anyway
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(bob) == {}
    await bob.put(f"/v3/profile/{bob.user_id}/displayname", {"displayname": "鲍勃"})
    assert await hears(alice) == {}
    await bob.leaves(room)
    assert await hears(alice) == {}
    assert await hears(bob) == {}


async def test_who_left_and_came_back_is_changed_because_nobody_was_told_meanwhile(
    alice: Person, bob: Person
) -> None:
    room = await shared_room(alice, bob)
    for person in (alice, bob):
        await hears(person)
    await bob.leaves(room)
    await uploads_keys(bob)
    await alice.invites(room, bob)
    await bob.joins(room)
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(bob) == {"changed": [alice.user_id, bob.user_id]}


async def test_who_leaves_and_is_met_in_another_room_meanwhile_has_not_left(
    alice: Person, bob: Person
) -> None:
    room = await shared_room(alice, bob)
    for person in (alice, bob):
        await hears(person)
    await bob.leaves(room)
    await shared_room(bob, alice)
    assert await hears(alice) == {"changed": [bob.user_id]}
    assert await hears(bob) == {"changed": [alice.user_id]}


async def test_leaving_a_room_ends_the_sharing_with_all_its_members_but_those_met_elsewhere(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    room = await shared_room(alice, bob, carol)
    await shared_room(alice, carol)
    await hears(alice)
    await alice.leaves(room)
    assert await hears(alice) == {"left": [bob.user_id]}


async def test_a_new_name_is_not_a_change_of_devices(alice: Person, bob: Person) -> None:
    await shared_room(alice, bob)
    for person in (alice, bob):
        await hears(person)
    await bob.put(f"/v3/profile/{bob.user_id}/displayname", {"displayname": "鲍勃"})
    assert await hears(alice) == {}
    assert await hears(bob) == {}


async def test_an_invitation_tells_nothing_of_who_comes_and_goes(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    room = await shared_room(alice, bob)
    await alice.invites(room, carol)
    await hears(carol)
    await bob.leaves(room)
    assert await hears(carol) == {}
    await uploads_keys(alice)
    assert await hears(carol) == {}


async def test_cross_signing_is_told_to_whom_it_concerns(alice: Person, bob: Person) -> None:
    await shared_room(alice, bob)
    for person in (alice, bob):
        await hears(person)
    identity, his = CrossSigningIdentity(alice.user_id), CrossSigningIdentity(bob.user_id)
    await alice.post("/v3/keys/device_signing/upload", identity.body())
    assert await hears(alice) == {"changed": [alice.user_id]}
    assert await hears(bob) == {"changed": [alice.user_id]}
    await bob.post("/v3/keys/device_signing/upload", his.body())
    for person in (alice, bob):
        await hears(person)

    # That Bob trusts Alice is told to Bob's own devices only.
    key = his.sign_user(identity.master_key())
    signatures = {alice.user_id: {public_key(identity.master): key}}
    await bob.post("/v3/keys/signatures/upload", signatures)
    assert await hears(bob) == {"changed": [alice.user_id]}
    assert await hears(alice) == {}

    device = await uploads_keys(bob)
    await hears(alice)
    signed = {bob.user_id: {bob.device_id: his.sign_device(device.keys())}}
    await bob.post("/v3/keys/signatures/upload", signed)
    assert await hears(alice) == {"changed": [bob.user_id]}
    await bob.post("/v3/keys/signatures/upload", signed)
    assert await hears(alice) == {}


async def test_a_token_of_another_time_counts_as_the_beginning(alice: Person, bob: Person) -> None:
    await shared_room(alice, bob)
    await uploads_keys(bob)
    await alice.syncs()
    changes = await alice.call(
        "GET", "/v3/keys/changes", params={"from": "sother.5.boot-0", "to": alice.since or ""}
    )
    assert changes == {"changed": [alice.user_id, bob.user_id], "left": []}
    for params in ({"from": "x", "to": "y"}, {"to": alice.since or ""}):
        refused = await alice.refused(
            "GET", "/v3/keys/changes?" + "&".join(f"{k}={v}" for k, v in params.items())
        )
        assert refused.status == 400
