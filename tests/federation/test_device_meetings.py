"""Servers are told of the devices of whoever comes to share a room with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from yizhan_testing.crypto_identity import CryptoDevice
from yizhan_testing.peer_in_room import joined

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]


class Inbox:
    """What a peer is sent."""

    def __init__(self, peer: Peer) -> None:
        self._news = asyncio.Event()
        self._messages: set[str] = set()
        self._lists: list[JsonObject] = []
        peer.handlers_below["/_matrix/federation/v1/send/"] = self._take

    async def _take(self, request: web.BaseRequest) -> JsonObject:
        body = orjson.loads(await request.read())
        self._messages |= {each["content"].get("body", "") for each in body["pdus"]}
        self._lists += [
            each["content"] for each in body["edus"] if each["edu_type"] == "m.device_list_update"
        ]
        self._news.set()
        return {"pdus": {}}

    async def lists_before(self, alice: Person, room: str) -> list[JsonObject]:
        """Return what is new of devices until now: before an event that comes after all that."""
        text = f"after {len(self._messages)}"
        await alice.says(room, text)
        async with asyncio.timeout(10):
            while text not in self._messages:
                self._news.clear()
                await self._news.wait()
        found, self._lists = self._lists, []
        return found


async def uploads_keys(person: Person) -> CryptoDevice:
    device = CryptoDevice(person.user_id, person.device_id)
    await person.post("/v3/keys/upload", {"device_keys": device.keys()})
    return device


async def tried(peer: Peer, alice: Person) -> None:
    """Wait until the peer has been sent something, which it may not have taken."""
    async with asyncio.timeout(10):
        while not any(path.startswith("/_matrix/federation/v1/send/") for _, path in peer.asked):
            await alice.syncs(timeout_ms=100)


async def test_whoever_comes_into_a_room_of_strangers_has_them_told_of_the_devices_once(
    homeserver: HomeserverInProcess, alice: Person, bob: Person, peer: Peer
) -> None:
    carol = await homeserver.person("carol")
    inbox = Inbox(peer)
    room = await alice.creates_room(preset="public_chat")
    other = await alice.creates_room(preset="public_chat")
    await joined(peer, homeserver, room)
    await joined(peer, homeserver, other)
    device = await uploads_keys(bob)
    assert await inbox.lists_before(alice, room) == []

    await bob.joins(room)
    [told] = await inbox.lists_before(alice, room)
    uri = f"/_matrix/federation/v1/user/devices/{quote(bob.user_id, safe='')}"
    listed = (await peer.asks(homeserver, "GET", uri)).json
    assert told["user_id"] == bob.user_id
    assert told["device_id"] == bob.device_id
    assert told["keys"] == device.keys()
    assert told["stream_id"] == listed["stream_id"]
    # The peer knows by this that it misses something: that the device began.
    assert len(told["prev_id"]) == 1

    await carol.joins(room)  # without keys
    await bob.joins(other)
    await bob.put(f"/v3/profile/{bob.user_id}/displayname", {"displayname": "鲍勃"})
    assert await inbox.lists_before(alice, room) == []

    await bob.leaves(room)
    await bob.leaves(other)
    await bob.put(f"/v3/devices/{bob.device_id}", {"display_name": "a new name"})
    assert await inbox.lists_before(alice, room) == []
    peer.asked.clear()
    # The peer is away, and what it is owed is put together once it is back.
    peer.is_down = True
    await alice.says(room, "is anybody there?")
    await tried(peer, alice)
    await bob.joins(room)
    await bob.put(f"/v3/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
    peer.is_down = False
    await peer.asks(homeserver, "GET", uri)
    [again] = await inbox.lists_before(alice, room)
    assert again["stream_id"] > told["stream_id"]
    assert again["prev_id"] == [told["stream_id"]]
    await bob.put(f"/v3/devices/{bob.device_id}", {"display_name": "another"})
    [next_one] = await inbox.lists_before(alice, room)
    assert next_one["prev_id"] == [again["stream_id"]]


async def test_whoever_came_while_a_server_was_away_and_has_another_name_since_is_told_of(
    homeserver: HomeserverInProcess, alice: Person, bob: Person, peer: Peer
) -> None:
    inbox = Inbox(peer)
    room = await alice.creates_room(preset="public_chat")
    await joined(peer, homeserver, room)
    device = await uploads_keys(bob)
    assert await inbox.lists_before(alice, room) == []
    peer.asked.clear()

    peer.is_down = True
    await alice.says(room, "is anybody there?")  # is on its way before anything else
    await tried(peer, alice)
    await bob.joins(room)
    for number in range(60):  # more than there is room for in a transaction
        await alice.says(room, f"number {number}")
    await bob.put(f"/v3/profile/{bob.user_id}/displayname", {"displayname": "鲍勃"})
    peer.is_down = False
    uri = f"/_matrix/federation/v1/user/devices/{quote(bob.user_id, safe='')}"
    await peer.asks(homeserver, "GET", uri)
    [told] = await inbox.lists_before(alice, room)
    assert told["keys"] == device.keys()
