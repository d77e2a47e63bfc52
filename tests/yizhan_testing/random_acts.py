"""People who do things at random, on any homeserver: scripts for comparisons."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from yizhan_testing.homeserver import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from yizhan_testing.homeserver import Person

MAX_ROOMS = 12


class RandomActs:
    """Does one thing after another, the same ones for the same `random`."""

    def __init__(self, random: Random, people: list[Person]) -> None:
        self.random = random
        self.people = people
        self.rooms: list[str] = []
        self.events: dict[str, list[str]] = {}
        self.done = 0

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
