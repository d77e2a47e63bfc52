"""Accounts that end, and what other servers keep of their devices and identities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from yizhan_testing.crypto_identity import CrossSigningIdentity, CryptoDevice
from yizhan_testing.neighbours import sees
from yizhan_testing.peer_in_room import joined
from yizhan_testing.peer_rooms import V1, path_of
from yizhan_testing.policy_server import PlayedPolicyServer
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]


async def test_an_account_that_ends_takes_its_keys_along_wherever_they_are_kept(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    told: list[JsonObject] = []

    async def take(request: web.BaseRequest) -> JsonObject:
        edus = orjson.loads(await request.read())["edus"]
        told.extend(edu["content"] for edu in edus if edu["edu_type"] == "m.device_list_update")
        return {"pdus": {}}

    peer.handlers_below[f"{V1}/send/"] = take
    room = await alice.creates_room(preset="public_chat")
    await joined(peer, homeserver, room)
    device = CryptoDevice(alice.user_id, alice.device_id)
    await alice.post("/v3/keys/upload", {"device_keys": device.keys()})
    await alice.post("/v3/keys/device_signing/upload", CrossSigningIdentity(alice.user_id).body())
    devices = path_of(f"{V1}/user/devices", alice.user_id)
    before = (await peer.asks(homeserver, "GET", devices)).json
    assert len(before["devices"]) == 1
    assert "master_key" in before
    # She cannot even leave: the policy server does not let anybody.
    judge = PlayedPolicyServer(peer, forbidden={"leave"})
    await alice.sets(room, "m.room.policy", judge.policy)
    bob = await homeserver.person("bob")
    auth = {
        "type": "m.login.password", "password": alice.password,
        "identifier": {"type": "m.id.user", "user": "alice"},
    }  # fmt: skip
    await alice.post("/v3/account/deactivate", {"auth": auth})
    assert "m.room.member" in judge.kinds

    async def both_are_told() -> None:
        gone = [each for each in told if each.get("deleted")]
        assert [each["device_id"] for each in gone if each["prev_id"]] == [alice.device_id]
        # Whoever is told of something that follows nothing asks for all of it.
        assert [each["user_id"] for each in gone if not each["prev_id"]] == [alice.user_id]

    await until(bob, both_are_told)
    after = (await peer.asks(homeserver, "GET", devices)).json
    assert after["devices"] == []
    assert "master_key" not in after


async def test_an_identity_that_its_server_no_longer_names_is_forgotten(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await joined(peer, homeserver, room)
    identity, device = CrossSigningIdentity(guest.user_id), CryptoDevice(guest.user_id, "D")
    path = path_of(f"{V1}/user/devices", guest.user_id)
    whole: JsonObject = {
        "user_id": guest.user_id, "stream_id": 5,
        "devices": [{"device_id": "D", "keys": device.keys()}],
        "master_key": identity.master_key(),
    }  # fmt: skip
    peer.answers["GET", path] = whole

    async def seen() -> tuple[set[str], bool]:
        body: JsonObject = {"device_keys": {guest.user_id: []}}
        answer = await alice.post("/v3/keys/query", body)
        assert answer["failures"] == {}
        devices = answer["device_keys"].get(guest.user_id, {})
        return set(devices), guest.user_id in answer["master_keys"]

    assert await seen() == ({"D"}, True)
    await alice.syncs()
    peer.answers["GET", path] = {"user_id": guest.user_id, "stream_id": 6, "devices": []}
    edu = {
        "user_id": guest.user_id, "device_id": "?", "stream_id": 7, "prev_id": [],
        "deleted": True,
    }  # fmt: skip
    await guest.sends(edus=({"edu_type": "m.device_list_update", "content": edu},))
    await sees(
        alice,
        lambda answer: guest.user_id in answer.body.get("device_lists", {}).get("changed", []),
    )
    assert await seen() == (set(), False)
    # And one that comes again is taken.
    peer.answers["GET", path] = {**whole, "stream_id": 9}
    edu = {**edu, "stream_id": 9, "prev_id": [8]}
    await guest.sends(edus=({"edu_type": "m.device_list_update", "content": edu},))
    assert await seen() == ({"D"}, True)
