"""What people of many servers do to one another in rooms that they share, at random."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from urllib.parse import quote

import aiohttp

from yizhan_testing.homeserver import Person, Refused

VERSIONS = ("12", "12", "11", "10", "6", "2")
MAX_ROOMS = 3
PUBLIC = ["public_chat"]

UNREACHABLE = 502
DECLINED = 0.4
"""Of the invitations that are answered."""

Act = Callable[[Person, str], Awaitable[Any]]


def path_of(room: str, *parts: str) -> str:
    """Return the path of something of a room."""
    return "/".join((f"/v3/rooms/{quote(room, safe='')}", *(quote(p, safe="") for p in parts)))


class Acts:
    """Does one thing after another; what is forbidden is tried, too."""

    def __init__(self, random: Random, people: list[Person], names: list[str]) -> None:
        self._random = random
        self._people = people
        self._names = names
        self.rooms: list[str] = []
        self._founders: dict[str, str] = {}
        self._events: dict[str, list[str]] = {}
        self.log: list[str] = []
        self.unanswered: set[tuple[str, str]] = set()
        """(user, room) of joins that failed on the way: another server may have taken them."""
        self._number = 0
        self._weighted: list[tuple[int, Act]] = [
            (40, self.says),
            (12, self._names_it),
            (12, self._marks),
            (18, self._joins),
            (6, self._leaves),
            (8, self._invites),
            (6, self._answers),
            (6, self._knocks),
            (4, self._lets_in),
            (6, self._kicks),
            (3, self._bans),
            (4, self._unbans),
            (10, self._empowers),
            (4, self._opens_or_closes),
            (6, self._redacts),
            (2, self._founds_another),
        ]

    async def act(self) -> None:
        """Do something."""
        person = self._random.choice(self._people)
        room = self._random.choice(self.rooms)
        weights = [weight for weight, _ in self._weighted]
        _, act = self._random.choices(self._weighted, weights)[0]
        await self.tries(act, person, room)

    async def tries(self, act: Act, person: Person, room: str) -> None:
        """Do something that may be forbidden, or find the server away. Refused if it fails."""
        self._number += 1
        try:
            outcome = await act(person, room)
        except Refused as refused:
            if refused.status >= 500 and refused.status != UNREACHABLE:
                raise
            outcome = f"{refused.status} {refused.errcode}"
        except aiohttp.ClientConnectionError:
            outcome = "away"
        name = getattr(act, "__name__", "").strip("_")
        self.log.append(f"{person.user_id} {name} {room[:6]}: {outcome}")

    async def _founds_another(self, person: Person, _: str) -> str:
        return await self.founds(person)

    async def founds(self, person: Person) -> str:
        """Make a room."""
        if len(self.rooms) >= MAX_ROOMS:
            return "enough rooms"
        room = await person.creates_room(
            preset=self._random.choice(["public_chat", "private_chat"] if self.rooms else PUBLIC),
            room_version=self._random.choice(VERSIONS),
            power_level_content_override={"events": {"m.x": 0}},
        )
        self.rooms.append(room)
        self._founders[room] = server_of(person)
        self._events[room] = []
        return room

    async def says(self, person: Person, room: str) -> str:
        """Send a message."""
        event_id = await person.says(room, str(self._number))
        self._events[room].append(event_id)
        return event_id

    async def _names_it(self, person: Person, room: str) -> str:
        kind, key = self._random.choice([("m.room.name", "name"), ("m.room.topic", "topic")])
        return await person.sets(room, kind, {key: str(self._number)})

    async def _marks(self, person: Person, room: str) -> str:
        event_id = await person.sets(room, "m.x", {"n": self._number}, self._random.choice("abc"))
        self._events[room].append(event_id)
        return event_id

    async def _joins(self, person: Person, room: str) -> str:
        via = self._random.choice([*self._names, self._founders[room], self._founders[room]])
        await self.joins(person, room, via)
        return via

    async def joins(self, person: Person, room: str, via: str) -> None:
        """Join a room through a server."""
        path = f"/v3/join/{quote(room, safe='')}"
        try:
            await person.call("POST", path, {}, params={"via": via})
        except aiohttp.ClientConnectionError:
            self.unanswered.add((person.user_id, room))
            raise
        except Refused as refused:
            if refused.status == UNREACHABLE:
                self.unanswered.add((person.user_id, room))
            raise

    async def _leaves(self, person: Person, room: str) -> None:
        await person.leaves(room)

    async def _invites(self, person: Person, room: str) -> str:
        other = self._random.choice(self._people)
        await person.invites(room, other)
        return other.user_id

    async def _answers(self, person: Person, _: str) -> str:
        """Accept or decline an invitation."""
        invited = sorted((await person.get("/v3/sync")).get("rooms", {}).get("invite", {}))
        if not invited:
            return "not invited"
        room = self._random.choice(invited)
        if self._random.random() < DECLINED:
            await person.leaves(room)
            return f"no {room[:6]}"
        await self.joins(person, room, self._random.choice(self._names))
        return f"yes {room[:6]}"

    async def _knocks(self, person: Person, room: str) -> str:
        via = self._random.choice([*self._names, self._founders[room], self._founders[room]])
        path = f"/v3/knock/{quote(room, safe='')}"
        await person.call("POST", path, {}, params={"via": via})
        return via

    async def _lets_in(self, person: Person, room: str) -> str:
        """Invite somebody who has knocked, if anybody has."""
        members = await person.get(path_of(room, "members"), membership="knock")
        waiting: list[str] = sorted(event["state_key"] for event in members["chunk"])
        if not waiting:
            return "nobody knocks"
        user_id = self._random.choice(waiting)
        await person.post(path_of(room, "invite"), {"user_id": user_id})
        return user_id

    async def _kicks(self, person: Person, room: str) -> str:
        return await self._removes(person, room, "kick")

    async def _bans(self, person: Person, room: str) -> str:
        return await self._removes(person, room, "ban")

    async def _unbans(self, person: Person, room: str) -> str:
        return await self._removes(person, room, "unban")

    async def _removes(self, person: Person, room: str, how: str) -> str:
        other = self._random.choice(self._people)
        await person.post(path_of(room, how), {"user_id": other.user_id})
        return other.user_id

    async def _empowers(self, person: Person, room: str) -> str:
        other = self._random.choice(self._people)
        levels = await person.get(path_of(room, "state", "m.room.power_levels", ""))
        level = self._random.choice([0, 50, 50, 100])
        levels.setdefault("users", {})[other.user_id] = level
        await person.sets(room, "m.room.power_levels", levels)
        return f"{other.user_id} {level}"

    async def _opens_or_closes(self, person: Person, room: str) -> str:
        # Rooms of version 6 and before know no knocking: there nobody gets in by it.
        rule = self._random.choice(["public", "public", "invite", "knock"])
        return await person.sets(room, "m.room.join_rules", {"join_rule": rule})

    async def _redacts(self, person: Person, room: str) -> str:
        if not self._events[room]:
            return "nothing to redact"
        event = self._random.choice(self._events[room][-6:])
        await person.put(path_of(room, "redact", event, f"r{self._number}"), {})
        return event


def server_of(person: Person) -> str:
    """Return the name of somebody's server."""
    return person.user_id.partition(":")[2]
