"""What the homeserver tells a push gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio
from aiohttp import web

from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect

JsonObject = dict[str, Any]


class Gateway:
    """A push gateway that takes everything."""

    def __init__(self) -> None:
        self.url = ""
        self.chatter = 0
        """Bytes that its next answer holds beyond what is asked for."""
        self.refused: str | None = None
        """What no notification may hold."""
        self._told: asyncio.Queue[JsonObject] = asyncio.Queue()

    async def take(self, request: web.BaseRequest) -> web.Response:
        if self.refused is not None and self.refused in await request.text():
            return web.json_response({"errcode": "M_BAD_JSON", "error": "x"}, status=400)
        self._told.put_nowait((await request.json())["notification"])
        chatter, self.chatter = self.chatter, 0
        return web.json_response({"rejected": [], "x": "x" * chatter})

    async def next(self) -> JsonObject:
        async with asyncio.timeout(20):
            return await self._told.get()


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    runner = web.ServerRunner(web.Server(gateway.take))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}/_matrix/push/v1/notify"
        yield gateway
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path, dialect: Dialect) -> AsyncIterator[HomeserverInProcess]:
    """One that may speak with the gateway."""
    allowed = {"outbound.allow": ["127.0.0.1"]}
    async with homeserver_in_process(tmp_path, dialect, **allowed) as server:
        yield server


async def subscribe(person: Person, gateway: Gateway) -> None:
    await person.post(
        "/v3/pushers/set",
        {
            "kind": "http",
            "app_id": "org.example.phone",
            "app_display_name": "Example",
            "device_display_name": "phone",
            "pushkey": "key",
            "lang": "zh",
            "data": {"url": gateway.url, "brand": "example"},
        },
    )


async def test_a_gateway_hears_of_messages_invitations_and_of_what_was_read_elsewhere(
    gateway: Gateway, alice: Person, bob: Person
) -> None:
    await subscribe(bob, gateway)

    room = await alice.creates_room(invite=[bob], name="局务会")
    invited = await gateway.next()
    assert (invited["membership"], invited["user_is_target"]) == ("invite", True)
    assert (invited["room_id"], invited["room_name"]) == (room, "局务会")

    await bob.joins(room)
    said = await alice.says(room, "你好")
    told = await gateway.next()
    while told.get("event_id") != said:
        told = await gateway.next()
    assert told["id"] == said
    assert told["content"] == {"msgtype": "m.text", "body": "你好"}
    assert told["counts"] == {"unread": 1}
    assert told["devices"][0]["data"] == {"brand": "example"}

    await bob.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(said)}", {})
    read = await gateway.next()
    assert "event_id" not in read
    assert read["counts"] == {"unread": 0}
    assert read["devices"][0]["pushkey"] == "key"


async def test_a_room_without_a_name_is_named_by_its_alias(
    homeserver: HomeserverInProcess, gateway: Gateway, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_alias_name="office")
    await bob.joins(room)
    await subscribe(bob, gateway)
    await alice.says(room, "你好")
    told = await gateway.next()
    assert told["room_name"] == told["room_alias"] == f"#office:{homeserver.server_name}"


async def test_a_gateway_that_answers_too_much_is_told_again(
    gateway: Gateway, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await subscribe(bob, gateway)
    gateway.chatter = 70_000
    said = await alice.says(room, "你好")
    assert (await gateway.next())["event_id"] == said
    assert (await gateway.next())["event_id"] == said


async def test_a_notification_that_the_gateway_refuses_holds_up_no_other(
    gateway: Gateway, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await subscribe(bob, gateway)
    gateway.refused = "indigestible"
    await alice.says(room, "indigestible")
    said = await alice.says(room, "你好")
    assert (await gateway.next())["event_id"] == said
