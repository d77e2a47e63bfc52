"""Servers that are away for long, and those that are gone for good."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest_asyncio

from yizhan_server.federation import outbox_expiry
from yizhan_server.federation.outbox_expiry import OutboxExpiry
from yizhan_testing.homeserver import HomeserverInProcess, Person
from yizhan_testing.later_clock import LaterClock
from yizhan_testing.peer import Peer
from yizhan_testing.peer_in_room import joined
from yizhan_testing.peer_rooms import V1
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest
    from aiohttp import web


JsonObject = dict[str, Any]
DAY_MS = 86_400_000


@dataclass
class Absence:
    """A homeserver, and a peer that is away."""

    homeserver: HomeserverInProcess
    peer: Peer
    clock: LaterClock
    alice: Person
    pdus: list[JsonObject] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    """What the peer was sent when it was there."""

    async def sends(self, *numbers: int) -> None:
        """Have alice send messages to a device of the peer's user."""
        for number in numbers:
            messages = {f"@bob:{self.peer.name}": {"PHONE": {"n": number}}}
            path = f"/v3/sendToDevice/m.test/{number}"
            await self.alice.put(path, {"messages": messages})

    async def passes(self, days: int) -> None:
        """Let days pass, with what is done every hour; that the peer is away has been seen."""
        destinations = self.homeserver.parts.federation_client.destinations

        await self.until(lambda: destinations.failing_since_ms(self.peer.name) is not None)
        self.clock.later_ms += days * DAY_MS
        await OutboxExpiry(self.homeserver.parts.services.db, self.clock).expire()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Return when something is so."""
        async with asyncio.timeout(20):
            while not is_so():
                await self.alice.get("/v3/account/whoami")

    async def ends(self) -> None:
        """Let the peer come back: it asks for something."""
        self.peer.is_down = False
        path = f"{V1}/query/profile?user_id={self.alice.user_id}"
        assert (await self.peer.asks(self.homeserver, "GET", path)).status == 200

    async def publish(self, _: web.BaseRequest) -> JsonObject:
        """Publish keys that are valid at the time that it is here."""
        return self.peer.published(now_ms=self.clock.now_ms())

    async def take(self, request: web.BaseRequest) -> JsonObject:
        """Take a transaction."""
        body = orjson.loads(await request.read())
        self.pdus += body["pdus"]
        for edu in body["edus"]:
            if edu["edu_type"] == "m.direct_to_device":
                messages = edu["content"]["messages"].values()
                self.messages += [device["PHONE"]["n"] for device in messages]
        return {"pdus": {}}


@pytest_asyncio.fixture
async def absence(
    homeserver: HomeserverInProcess, peer: Peer, clock: LaterClock
) -> AsyncIterator[Absence]:
    away = Absence(homeserver, peer, clock, await homeserver.person("alice"))
    peer.handlers_below[f"{V1}/send/"] = away.take
    peer.answers["GET", "/_matrix/key/v2/server"] = away.publish
    # So that its key is known before.
    await away.ends()
    peer.is_down = True
    yield away


async def test_messages_survive_an_absence_of_weeks(absence: Absence) -> None:
    await absence.sends(1, 2)
    await absence.passes(days=14)
    await absence.sends(3)
    await absence.passes(days=14)
    await absence.ends()
    await absence.until(lambda: absence.messages == [1, 2, 3])


async def test_messages_that_nobody_took_for_a_month_are_given_up(absence: Absence) -> None:
    await absence.sends(1, 2)
    await absence.passes(days=20)
    await absence.sends(3)
    await absence.passes(days=11)
    await absence.ends()
    await absence.until(lambda: bool(absence.messages))
    assert absence.messages == [3]


async def test_events_wait_however_long(absence: Absence) -> None:
    absence.peer.is_down = False
    room = await absence.alice.creates_room(preset="public_chat")
    await joined(absence.peer, absence.homeserver, room)
    absence.peer.is_down = True
    for text in ("first", "second"):
        await absence.alice.says(room, text)
        await absence.sends(len(text))
    await absence.passes(days=40)
    await absence.sends(7)
    await absence.passes(days=40)
    await absence.alice.says(room, "third")
    await absence.ends()
    await absence.until(lambda: len(absence.pdus) == 3)
    texts = [event["content"].get("body") for event in absence.pdus]
    assert texts == ["first", "second", "third"]
    assert absence.messages == []


async def test_nothing_is_left_for_a_server_that_is_owed_nothing_else(absence: Absence) -> None:
    await absence.sends(1)
    await absence.passes(days=31)
    await absence.ends()
    services = absence.homeserver.parts.services

    async def is_forgotten() -> None:
        assert await services.db.rows("SELECT server FROM busy_destination") == []

    await until(absence.alice, is_forgotten)
    assert await services.db.rows("SELECT nid FROM outbox") == []
    assert absence.messages == []


async def test_only_so_many_messages_wait_for_one_server(
    absence: Absence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_expiry, "MOST", 3)
    await absence.sends(0)
    await absence.passes(days=0)
    await absence.sends(*range(1, 8))
    await absence.passes(days=1)
    await absence.ends()
    await absence.until(lambda: len(absence.messages) == 4)
    # The first one was on its way already.
    assert absence.messages == [0, 5, 6, 7]
