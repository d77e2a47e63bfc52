"""Slow and many servers: one holds up those who ask it and nobody else, many no other writer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson
from aiohttp import web

from yizhan_server.e2ee import remote_keys
from yizhan_server.federation import outbox
from yizhan_testing.homeserver import homeserver_in_process
from yizhan_testing.media import fetches, file_of
from yizhan_testing.peer import federating, open_peer
from yizhan_testing.peer_in_room import joined
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]
CLAIM = "/_matrix/federation/v1/user/keys/claim"
DEVICES = "/_matrix/federation/v1/user/devices/"
DOWNLOAD = "/_matrix/federation/v1/media/download"
MANY = 60


async def test_keys_are_taken_while_another_server_lets_everybody_wait(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    enough = asyncio.Event()

    async def waits(_: web.BaseRequest) -> JsonObject:
        await enough.wait()
        return {"one_time_keys": {}}

    async with open_peer(authority) as quick:
        settings = federating(authority, peer, quick)
        peer.answers["POST", CLAIM] = waits
        quick.answers["POST", CLAIM] = {
            "one_time_keys": {f"@bob:{quick.name}": {"PHONE": {"signed_curve25519:A": "key"}}}
        }
        async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
            alice = await homeserver.person("alice")

            async def claims(server: str) -> JsonObject:
                wanted = {f"@bob:{server}": {"PHONE": "signed_curve25519"}}
                answer: JsonObject = await alice.post(
                    "/v3/keys/claim", {"one_time_keys": wanted, "timeout": 20_000}
                )
                return answer

            async def ten_are_waiting() -> None:
                assert peer.count(CLAIM) == 10

            async with asyncio.TaskGroup() as group:
                for _ in range(MANY):
                    group.create_task(claims(peer.name))
                await until(alice, ten_are_waiting)
                async with asyncio.timeout(5):
                    answer = await claims(quick.name)
                enough.set()
            assert f"@bob:{quick.name}" in answer["one_time_keys"]


async def test_what_is_too_large_to_be_stored_for_all_at_once_arrives_all_the_same(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[str] = []

    async def take(request: web.BaseRequest) -> JsonObject:
        pdus = orjson.loads(await request.read())["pdus"]
        arrived.extend(pdu["content"]["body"] for pdu in pdus)
        return {"pdus": {}}

    async def all_have_arrived() -> None:
        assert arrived == ["x" * 1000, "short", "y" * 1000]

    peer.handlers_below["/_matrix/federation/v1/send/"] = take
    room = await alice.creates_room(preset="public_chat")
    await joined(peer, homeserver, room)
    monkeypatch.setattr(outbox, "BYTES_AT_ONCE", 1000)
    await alice.says(room, "x" * 1000)
    await alice.says(room, "short")
    await alice.says(room, "y" * 1000)
    await until(alice, all_have_arrived)


async def test_files_are_fetched_while_another_server_lets_everybody_wait(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    enough = asyncio.Event()

    async def waits(_: web.BaseRequest) -> web.Response:
        await enough.wait()
        return file_of(b"late")

    async def gives(_: web.BaseRequest) -> web.Response:
        return file_of(b"at once")

    async with open_peer(authority) as quick:
        peer.handlers_below[DOWNLOAD] = waits
        quick.handlers_below[DOWNLOAD] = gives
        settings = federating(authority, peer, quick)
        async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
            alice = await homeserver.person("alice")

            async def reads(server: str, number: int) -> bytes:
                path = f"client/v1/media/download/{server}/picture{number}"
                return (await fetches(alice, path)).data

            async def some_are_waiting() -> None:
                assert len(peer.asked) >= 5

            async with asyncio.TaskGroup() as group:
                late = [group.create_task(reads(peer.name, number)) for number in range(20)]
                await until(alice, some_are_waiting)
                async with asyncio.timeout(5):
                    assert await reads(quick.name, 1) == b"at once"
                enough.set()
            assert {each.result() for each in late} == {b"late"}


async def test_more_missed_people_than_are_remembered_hinder_no_question(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_keys, "MAX_MISSED", 1)
    enough = asyncio.Event()

    async def waits(_: web.BaseRequest) -> web.Response:
        await enough.wait()
        return web.Response(status=502)

    room = await alice.creates_room(preset="public_chat")
    names = [(await joined(peer, homeserver, room, each)).user_id for each in ("eve", "mallory")]
    peer.handlers_below[DEVICES] = waits

    async def is_missed(user_id: str) -> None:
        wanted = {"device_keys": {user_id: []}, "timeout": 100}
        assert (await alice.post("/v3/keys/query", wanted))["failures"].keys() == {peer.name}

    async def is_asked_for_in_the_background() -> None:
        assert sum(path.startswith(DEVICES) for _, path in peer.asked) == 2

    await is_missed(names[0])
    await until(alice, is_asked_for_in_the_background)
    await is_missed(names[1])
    enough.set()

    async def has_failed() -> None:
        destinations = homeserver.parts.federation_client.destinations
        assert destinations.failing_since_ms(peer.name) is not None

    await until(alice, has_failed)
    await is_missed(names[0])


async def test_clients_are_told_of_those_only_whom_a_slow_server_did_not_give(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    enough = asyncio.Event()

    async def lists(request: web.BaseRequest) -> JsonObject:
        user_id = unquote(request.rel_url.raw_path.removeprefix(DEVICES))
        if user_id.startswith("@mallory"):
            await enough.wait()
        return {"user_id": user_id, "stream_id": 1, "devices": []}

    room = await alice.creates_room(preset="public_chat")
    names = [(await joined(peer, homeserver, room, each)).user_id for each in ("eve", "mallory")]
    peer.handlers_below[DEVICES] = lists
    await alice.syncs()
    wanted = {"device_keys": {each: [] for each in names}, "timeout": 500}
    answer = await alice.post("/v3/keys/query", wanted)
    assert answer["device_keys"] == {each: {} for each in names}
    assert answer["failures"].keys() == {peer.name}
    enough.set()
    changed: list[str] = []
    async with asyncio.timeout(10):
        while names[1] not in changed:
            lists_now = (await alice.syncs(timeout_ms=1000)).body.get("device_lists", {})
            changed += lists_now.get("changed", [])
    assert changed == [names[1]]
