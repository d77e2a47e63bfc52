"""Connections break off at random moments: no message is lost or doubled, files are gone on with.

Clients do what the specification lets them rely on: they repeat a request under its transaction
id, ask /sync again with the same token, fill the gaps of a limited timeline, and ask for the rest
of a file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from typing_extensions import override

from yizhan_testing.cutting_relay import cutting
from yizhan_testing.media import downloads, uploads
from yizhan_testing.sliding_client import UNSTABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from yizhan_testing.cutting_relay import CuttingRelay
    from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person

MESSAGES = 100
"""Of each of the two who speak."""
SECRETS = 25
"""To-device messages, which only one answer holds."""
SYNC_BYTES = 6000
"""Carried by a connection at most, one way: an answer about twenty messages is as long."""
FILTER = json.dumps({"room": {"timeline": {"limit": 20}}})

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))]
"""Of the random moments; a failing one stands in the test's name."""

BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError, json.JSONDecodeError)


async def until_answered(ask: Callable[[], Coroutine[Any, Any, JsonObject]]) -> JsonObject:
    """Ask the same until an answer has come whole."""
    while True:
        try:
            return await ask()
        except BROKEN:
            await asyncio.sleep(0)


class Speaker:
    """Says one thing after the other, each until it is acknowledged."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.said: list[str] = []

    async def says(self, room: str, count: int) -> None:
        for number in range(count):
            text = f"{self.person.user_id} {number}"
            path = f"/v3/rooms/{quote(room)}/send/m.room.message/cut{number}"
            content = {"msgtype": "m.text", "body": text}
            answer = await until_answered(lambda: self.person.put(path, content))  # noqa: B023
            self.said.append(answer["event_id"])

    async def sends_to(self, user_id: str, count: int) -> None:
        for number in range(count):
            path = f"/v3/sendToDevice/m.test/cut{number}"
            body = {"messages": {user_id: {"*": {"n": number}}}}
            await until_answered(lambda: self.person.put(path, body))  # noqa: B023


class Listener:
    """Follows one room and the messages to its device; keeps what it saw, in order."""

    def __init__(self, person: Person, room: str) -> None:
        self.person = person
        self.room = room
        self.seen: list[JsonObject] = []
        self.secrets: list[int] = []

    def says_of(self, user_id: str) -> list[str]:
        return [
            event["event_id"]
            for event in self.seen
            if (event["type"], event["sender"]) == ("m.room.message", user_id)
        ]

    async def ask(self) -> None:
        raise NotImplementedError

    async def follows(self, is_complete: Callable[[Listener], bool]) -> None:
        while not is_complete(self):
            await self.ask()

    async def take(
        self, events: list[JsonObject], secrets: list[JsonObject], gap_from: str | None
    ) -> None:
        if gap_from is not None:
            events = await self._gap(gap_from) + events
        self.seen += events
        self.secrets += [event["content"]["n"] for event in secrets]

    async def _gap(self, token: str | None) -> list[JsonObject]:
        """Return what lies between the events that one has and the beginning of a timeline."""
        known = {event["event_id"] for event in self.seen}
        missing: list[JsonObject] = []
        while token is not None:
            params = {"dir": "b", "limit": "20", "from": token}
            path = f"/v3/rooms/{quote(self.room)}/messages"
            page = await until_answered(lambda: self.person.get(path, **params))  # noqa: B023
            token = page.get("end")
            for event in page["chunk"]:
                if event["event_id"] in known:
                    return missing
                missing.insert(0, event)
        return missing


class OnClassicSync(Listener):
    since: str | None = None

    @override
    async def ask(self) -> None:
        params = {"filter": FILTER, "timeout": "20000"}
        if self.since is not None:
            params["since"] = self.since
        body = await until_answered(lambda: self.person.get("/v3/sync", **params))
        section = body.get("rooms", {}).get("join", {}).get(self.room, {})
        timeline = section.get("timeline", {})
        await self.take(
            timeline.get("events", []),
            body.get("to_device", {}).get("events", []),
            timeline["prev_batch"] if timeline.get("limited") else None,
        )
        self.since = body["next_batch"]


class OnSlidingSync(Listener):
    pos: str | None = None
    to_device: str | None = None

    @override
    async def ask(self) -> None:
        params = {"timeout": "20000"}
        if self.pos is not None:
            params["pos"] = self.pos
        extension: JsonObject = {"enabled": True}
        if self.to_device is not None:
            extension["since"] = self.to_device
        body = {
            "lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 20, "required_state": []}},
            "extensions": {"to_device": extension},
        }
        answer = await until_answered(
            lambda: self.person.call("POST", UNSTABLE, body, params=params)
        )
        told = answer["rooms"].get(self.room, {})
        secrets = answer["extensions"].get("to_device", {})
        await self.take(
            told.get("timeline", []),
            secrets.get("events", []),
            told["prev_batch"] if told.get("limited") else None,
        )
        self.pos = answer["pos"]
        self.to_device = secrets.get("next_batch", self.to_device)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the server's log calls faults; a line that breaks off is none of its own."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def behind(relay: CuttingRelay, person: Person, http: aiohttp.ClientSession) -> Person:
    return replace(person, base_url=relay.base_url, http=http)


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_message_is_lost_or_doubled_when_connections_break(
    homeserver: HomeserverInProcess,
    alice: Person,
    bob: Person,
    seed: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    carol = await homeserver.person("carol")
    other_device = await homeserver.signs_in("carol")
    room = await alice.creates_room(invite=[bob, carol])
    await bob.joins(room)
    await carol.joins(room)

    async with (
        cutting(homeserver.base_url, random.Random(seed), SYNC_BYTES) as relay,
        aiohttp.ClientSession() as http,
        asyncio.timeout(50),
        asyncio.TaskGroup() as tasks,
    ):
        speakers = [Speaker(behind(relay, person, http)) for person in (alice, bob)]
        listeners = [
            OnClassicSync(behind(relay, carol, http), room),
            OnSlidingSync(behind(relay, other_device, http), room),
        ]

        def is_complete(listener: Listener) -> bool:
            heard = sum(len(listener.says_of(s.person.user_id)) for s in speakers)
            return heard >= 2 * MESSAGES and len(listener.secrets) >= SECRETS

        for listener in listeners:
            tasks.create_task(listener.follows(is_complete))
        for speaker in speakers:
            tasks.create_task(speaker.says(room, MESSAGES))
        tasks.create_task(speakers[0].sends_to(carol.user_id, SECRETS))

    assert relay.cuts_of_requests > 5
    assert relay.cuts_of_answers > 5
    assert complaints(caplog) == []
    for listener in listeners:
        for speaker in speakers:
            assert len(set(speaker.said)) == MESSAGES
            assert listener.says_of(speaker.person.user_id) == speaker.said
        assert listener.secrets == list(range(SECRETS))
        assert (await nothing_more(listener, homeserver)) == []


async def nothing_more(listener: Listener, homeserver: HomeserverInProcess) -> list[JsonObject]:
    """Return what the last token brings when the network is well again; it should be nothing."""
    person = listener.person
    listener.person = replace(person, base_url=homeserver.base_url, http=homeserver.http)
    if isinstance(listener, OnClassicSync):
        body = await listener.person.get("/v3/sync", since=listener.since or "")
        events: list[JsonObject] = list(body.get("to_device", {}).get("events", []))
        section = body.get("rooms", {}).get("join", {}).get(listener.room, {})
        events += section.get("timeline", {}).get("events", [])
        return events
    assert isinstance(listener, OnSlidingSync)
    request = {
        "lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 20, "required_state": []}},
        "extensions": {"to_device": {"enabled": True, "since": listener.to_device}},
    }
    params = {"pos": listener.pos or ""}
    answer = await listener.person.call("POST", UNSTABLE, request, params=params)
    told: list[JsonObject] = answer["rooms"].get(listener.room, {}).get("timeline", [])
    secrets: list[JsonObject] = answer["extensions"].get("to_device", {}).get("events", [])
    return told + secrets


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_download_goes_on_where_it_broke_off(
    homeserver: HomeserverInProcess, alice: Person, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = random.Random(seed).randbytes(1_000_000)
    mxc = await uploads(alice, data)
    path = f"/_matrix/client/v1/media/download/{mxc}"
    have = b""
    tag = ""
    async with (
        cutting(homeserver.base_url, random.Random(seed), 150_000, requests=0) as relay,
        aiohttp.ClientSession() as http,
        asyncio.timeout(50),
    ):
        while len(have) < len(data):
            headers = {"Authorization": f"Bearer {alice.token}"}
            if have:
                headers |= {"Range": f"bytes={len(have)}-", "If-Range": tag}
            try:
                async with http.get(relay.base_url + path, headers=headers) as response:
                    assert response.status == (206 if have else 200)
                    tag = response.headers["ETag"]
                    async for block in response.content.iter_any():
                        have += block
            except BROKEN:
                continue
    assert have == data
    assert relay.cuts_of_answers > 5
    assert complaints(caplog) == []
    beyond = await downloads(alice, mxc, Range=f"bytes={len(data)}-", If_Range=tag)
    assert beyond.status == 416


async def test_an_upload_that_broke_off_is_begun_anew(
    homeserver: HomeserverInProcess, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    data = random.Random(3).randbytes(100_000)
    async with (
        cutting(homeserver.base_url, random.Random(3), 90_000, requests=1) as relay,
        aiohttp.ClientSession() as http,
    ):
        while not relay.cuts_of_requests:
            with suppress(*BROKEN):  # as it must be where the request is cut
                await uploads(behind(relay, alice, http), data)
        relay.is_cutting = False
        mxc = await uploads(behind(relay, alice, http), data)
    assert (await downloads(alice, mxc)).data == data
    assert complaints(caplog) == []
