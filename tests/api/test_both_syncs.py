"""Clients on sliding sync and on the classic one see the same, whatever people do."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from yizhan_testing.homeserver import Refused
from yizhan_testing.sliding_client import (
    EVERYTHING,
    EXTENSIONS,
    ClassicClient,
    SeenRoom,
    SlidingClient,
    room_list,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yizhan_testing.homeserver import HomeserverInProcess, Person

NAMES = ("alice", "bob", "carol", "dave", "erin")
MAX_ROOMS = 12
LIMIT = 10
PARTS = 4
"""How often the clients are compared: each time after a quarter of the script."""


class Town:
    """Five people who do things at random, each with one device on each sync."""

    def __init__(self, random: Random, people: list[Person], others: list[Person]) -> None:
        self.random = random
        self.people = people
        self.sliding = [SlidingClient(person, self._wish()) for person in people]
        self.classic = [ClassicClient(person) for person in others]
        self.rooms: list[str] = []
        self.events: dict[str, list[str]] = {}
        self.done = 0

    def _wish(self) -> dict[str, Any]:
        """Return a request whose list ends anywhere, with a timeline that is not always short."""
        last = self.random.choice([0, 2, 5, 99])
        return {
            "lists": {
                "all": room_list(last, limit=self.random.choice([3, LIMIT]), state=EVERYTHING)
            },
            "extensions": {name: {"enabled": True} for name in EXTENSIONS},
        }

    async def act(self) -> None:
        """Do something; what is forbidden is tried, too."""
        actions: list[tuple[int, Callable[[Person, str], Awaitable[Any]]]] = [
            (40, self._says),
            (25, self._mentions),
            (12, self._reads),
            (14, self._joins),
            (8, self._invites),
            (4, self._leaves),
            (3, lambda p, r: self._removes(p, r, "kick")),
            (1, lambda p, r: self._removes(p, r, "ban")),
            (4, lambda p, r: self._removes(p, r, "unban")),
            (5, self._names),
            (3, self._redacts),
            (3, self._answers_in_thread),
            (2, self._tags),
            (3, self._creates),
        ]
        if not self.rooms:
            await self._creates(self.people[0], "")
        person = self.random.choice(self.people)
        room = self.random.choice(self.rooms)
        weights = [weight for weight, _ in actions]
        _, action = self.random.choices(actions, weights)[0]
        with suppress(Refused):
            await action(person, room)
            self.done += 1

    async def _creates(self, person: Person, _: str) -> None:
        if len(self.rooms) < MAX_ROOMS:
            invited = self.random.sample(self.people, 2)
            room = await person.creates_room(
                preset=self.random.choice(["public_chat", "private_chat"]),
                invite=[other for other in invited if other is not person],
            )
            self.rooms.append(room)
            self.events[room] = []

    async def _says(self, person: Person, room: str, **more: Any) -> None:
        self.events[room].append(await person.says(room, str(self.random.random()), **more))

    async def _mentions(self, person: Person, room: str) -> None:
        others = [other.user_id for other in self.random.sample(self.people, 2)]
        await self._says(person, room, **{"m.mentions": {"user_ids": others}})

    async def _answers_in_thread(self, person: Person, room: str) -> None:
        root = self.random.choice(self.events[room][-5:] or [""])
        await self._says(
            person, room, **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        )

    async def _reads(self, person: Person, room: str) -> None:
        event = self.random.choice(self.events[room][-5:] or ["$none"])
        kind = self.random.choice(["m.read", "m.read.private"])
        await person.post(f"/v3/rooms/{quote(room)}/receipt/{kind}/{quote(event)}", {})

    async def _joins(self, person: Person, room: str) -> None:
        await person.joins(room)

    async def _invites(self, person: Person, room: str) -> None:
        await person.invites(room, self.random.choice(self.people))

    async def _leaves(self, person: Person, room: str) -> None:
        await person.leaves(room)

    async def _removes(self, person: Person, room: str, how: str) -> None:
        other = self.random.choice(self.people)
        await person.post(f"/v3/rooms/{quote(room)}/{how}", {"user_id": other.user_id})

    async def _names(self, person: Person, room: str) -> None:
        kind, key = self.random.choice([("m.room.name", "name"), ("m.room.topic", "topic")])
        await person.sets(room, kind, {key: str(self.random.random())})

    async def _redacts(self, person: Person, room: str) -> None:
        event = self.random.choice(self.events[room][-5:] or ["$none"])
        txn = self.random.random()
        await person.put(f"/v3/rooms/{quote(room)}/redact/{quote(event)}/{txn}", {})

    async def _tags(self, person: Person, room: str) -> None:
        path = f"/v3/user/{quote(person.user_id)}/rooms/{quote(room)}/tags/m.favourite"
        await person.put(path, {})

    async def somebody_syncs(self) -> None:
        index = self.random.randrange(len(self.people))
        if self.random.random() < 0.5:
            await self.classic[index].syncs()
            return
        client = self.sliding[index]
        if self.random.random() < 0.1:
            client.body = self._wish()
        if self.random.random() < 0.02:
            client.begins_anew()
        if client.pos is not None and self.random.random() < 0.1:
            await client.asks(pos=client.pos)  # an answer that is lost
        await client.syncs()

    async def everybody_catches_up(self) -> None:
        for sliding, classic in zip(self.sliding, self.classic, strict=True):
            lists = {"all": room_list(99, limit=LIMIT, state=EVERYTHING)}
            await sliding.syncs(lists=lists)
            await sliding.catches_up()
            await classic.syncs()


async def check_same(sliding: SlidingClient, classic: ClassicClient) -> None:
    """Compare what two devices of one person show, and the state with the server's."""
    assert sliding.of("invite").keys() == classic.of("invite").keys()
    assert sliding.of("join").keys() == classic.of("join").keys()
    for room_id, seen in sliding.of("join").items():
        expected = classic.rooms[room_id]
        assert _latest(seen) == _latest(expected)
        assert (seen.notifications, seen.highlights) == (
            expected.notifications,
            expected.highlights,
        )
        events = await sliding.person.call("GET", f"/v3/rooms/{quote(room_id)}/state")
        state = {(e["type"], e["state_key"]): e["content"] for e in _listed(events)}
        assert seen.state == state
        assert expected.state == state


def _latest(room: SeenRoom) -> list[str]:
    """Return the last events; a client that has had no gap has more of them."""
    return room.event_ids[-3:]


def _listed(events: Any) -> list[dict[str, Any]]:
    assert isinstance(events, list)
    return events


@pytest.mark.parametrize(
    ("seed", "acts"), [(1, 200), pytest.param(2, 1000, marks=pytest.mark.slow)]
)
async def test_both_syncs_show_the_same_after_any_script(
    homeserver: HomeserverInProcess, seed: int, acts: int
) -> None:
    random = Random(seed)
    people = [await homeserver.person(name) for name in NAMES]
    others = [await homeserver.signs_in(name) for name in NAMES]
    town = Town(random, people, others)
    seen_highlights = 0
    for part in range(1, PARTS + 1):
        while town.done < acts * part // PARTS:
            await town.act()
            if random.random() < 0.4:
                await town.somebody_syncs()
        await town.everybody_catches_up()
        for sliding, classic in zip(town.sliding, town.classic, strict=True):
            await check_same(sliding, classic)
            seen_highlights += sum(room.highlights for room in sliding.of("join").values())

    rooms = [room for client in town.sliding for room in client.of("join").values()]
    # The script was one that could have told a difference.
    assert len(rooms) > 5
    assert sum(room.notifications for room in rooms) > 5
    assert seen_highlights > 2
