"""Two servers that federate over TLS, one of which is killed, and what has to be true afterwards.

    async with mortal_pair(folder, POINTS) as pair:
        room = await pair.meets()
        pair.b.dies(POINT)
        pair.said(room, await pair.alice.says(room, "hello"))
        await pair.b.has_died()
        await pair.revives()
        await pair.check()

`a` is in the test's own loop and survives; `b` is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from typing_extensions import override

from yizhan_server.app import MIGRATIONS
from yizhan_server.clock import SystemClock
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect, fresh_database
from yizhan_testing.departments import Department, department, free_sockets
from yizhan_testing.homeserver import JsonObject, Person, SyncAnswer, configure
from yizhan_testing.replica import Replica, State
from yizhan_testing.sound_database import check_database, reading
from yizhan_testing.stand_ins import free_ports
from yizhan_testing.sudden_death import MortalHomeserver, Point

EVERYTHING = {"room": {"timeline": {"limit": 100}}}


class Lost(AssertionError):
    """Something that was acknowledged is not there."""


class Doubled(AssertionError):
    """Something is there twice."""


@dataclass
class Witness(Replica):
    """A device that goes on syncing over every death, and believes nothing else."""

    wanted: JsonObject = field(default_factory=lambda: EVERYTHING)
    fills_gaps: bool = True
    messages: list[int] = field(default_factory=list)
    """The numbers of the to-device messages that it got, as they came."""

    @override
    async def syncs(self, timeout_ms: int = 0, **more: str) -> SyncAnswer:
        answer = await super().syncs(timeout_ms, **more)
        for event in answer.body.get("to_device", {}).get("events", []):
            self.messages.append(event["content"]["number"])
        return answer


@dataclass
class Pair:
    """Two servers with a person each, and what was said and acknowledged."""

    a: Department
    b: MortalHomeserver
    alice: Person
    bob: Person
    witnesses: list[Witness]
    said: dict[str, list[str]] = field(default_factory=dict)
    """The acknowledged events of rooms in which both are."""
    told: dict[str, list[int]] = field(default_factory=dict)
    """The numbers of the acknowledged to-device messages to each of the two."""

    async def meets(self, **wish: Any) -> str:
        """Return a room of alice's that bob has joined."""
        room = await self.alice.creates_room(preset="public_chat", **wish)
        await self.joins(self.bob, room, self.a.server_name)
        await self.shares(room)
        return room

    async def joins(self, person: Person, room: str, via: str) -> None:
        path = f"/v3/join/{quote(room, safe='')}"
        await person.call("POST", path, {}, params={"via": via})

    async def shares(self, room: str) -> None:
        """Return when both know that both are in the room; what is said from now on counts."""
        self.said[room] = []
        both = {self.alice.user_id, self.bob.user_id}

        async def everybody_is_there() -> bool:
            for person in (self.alice, self.bob):
                path = f"/v3/rooms/{quote(room, safe='')}/joined_members"
                if set((await person.get(path))["joined"]) != both:
                    return False
            return True

        await self._until(everybody_is_there, "the two are in one room")

    async def says(self, person: Person, room: str, text: str) -> str:
        """Have a person say something that counts if it is acknowledged."""
        event_id = await person.says(room, text)
        self.said[room].append(event_id)
        return event_id

    async def tells(self, sender: Person, number: int) -> None:
        """Have one of the two send the other one's devices a message."""
        recipient = self.bob if sender is self.alice else self.alice
        to = {recipient.user_id: {recipient.device_id: {"number": number}}}
        await sender.put(f"/v3/sendToDevice/m.x/n{number}", {"messages": to})
        self.told.setdefault(recipient.user_id, []).append(number)

    async def revives(self) -> None:
        """Start b again on what its death has left, and let each know that the other is there."""
        await check_database(self.b.database_url)
        await self.b.resume()
        await self.hears_of_b()

    async def hears_of_b(self) -> None:
        """Have b ask something of a, which ends the time for which a would leave it alone."""
        path = f"/v3/directory/room/{quote(f'#nobody:{self.a.server_name}', safe='')}"
        await self.bob.refused("GET", path)

    async def leaves_b_alone(self) -> None:
        """Return when a has tried in vain to send b what it is owed."""
        failing = self.a.parts.federation_client.destinations.failing
        while self.b.server_name not in failing():
            await self.alice.get("/v3/account/whoami")

    async def check(self, within_s: float = 30) -> None:
        """Wait until both have all that was acknowledged, once; Lost or Doubled otherwise."""
        await self._until(self._have_all, "both have everything", within_s)
        for room in self.said:
            await self.says(self.alice, room, "is everything there?")
            await self.says(self.bob, room, "here it is")
        await self._until(self._have_all, "both have everything, and agree")
        for witness in self.witnesses:
            for room in self.said:
                state = await state_of(witness.person, room)
                assert witness.joined[room] == state, "another state by /sync"
        await owes_nothing(self.b.database_url, self.bob)
        await check_database(self.b.database_url)

    async def _have_all(self) -> bool:
        """Sync once more; whether both have all and agree."""
        for witness in self.witnesses:
            await self._syncs(witness)
            told = self.told.get(witness.person.user_id, [])
            if len(witness.messages) != len(set(witness.messages)):
                raise Doubled("a to-device message")
            if not set(told) <= set(witness.messages):
                return False
            for room, said in self.said.items():
                if not set(said) <= set(witness.spans.get(room, ())):
                    return False
        for room in self.said:
            if await state_of(self.alice, room) != await state_of(self.bob, room):
                return False
        return True

    async def _syncs(self, witness: Witness) -> None:
        try:
            await witness.syncs(timeout_ms=50)
        except AssertionError as error:
            raise Doubled(str(error)) from error

    async def _until(self, holds: Any, what: str, within_s: float = 30) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not await holds():
                    pass
        except TimeoutError:
            raise Lost(f"not true after {within_s} s: {what}") from None


async def state_of(person: Person, room: str) -> State:
    """Return the room's state as the person's server has it."""
    events: Any = await person.get(f"/v3/rooms/{quote(room, safe='')}/state")
    return {(event["type"], event["state_key"]): event["event_id"] for event in events}


async def owes_nothing(database_url: str, person: Person) -> None:
    """Return when the person's server has recorded that others have all that it owes them.

    What it is told to die over next is so not the end of what went before.
    """
    async with reading(database_url) as rows:
        while await rows("SELECT server FROM busy_destination"):
            await person.get("/v3/account/whoami")


def mortal_homeserver(
    folder: Path,
    authority: CertificateAuthority,
    others: Iterable[str],
    points: Iterable[Point],
    patch: str = "",
    database: str | None = None,
) -> MortalHomeserver:
    """Return a server that speaks with `others`; it has yet to be started.

    `database` is the URL of a fresh one; without it, it is a file in `folder`.
    """
    url = database or f"sqlite://{folder.absolute() / 'homeserver.db'}"
    federation, client = free_ports(2)
    name = f"127.0.0.1:{federation}"
    certificate, key = authority.issue("127.0.0.1")
    configure(
        folder,
        **{
            "server_name": f'"{name}"',
            # The same after a restart, since people keep the address.
            "listen.client": f'"127.0.0.1:{client}"',
            "listen.tls": f'"{name}"',
            "tls.certificate": f'"{certificate}"',
            "tls.key": f'"{key}"',
            "database.url": f'"{url}"',
            "federation.allow": json.dumps(list(others)),
            "federation.private_addresses": '["127.0.0.1"]',
            "federation.trusted_ca_files": f'["{authority.file}"]',
        },
    )
    server = MortalHomeserver(folder, url, points, patch)
    server.server_name = name
    return server


@asynccontextmanager
async def mortal_pair(
    folder: Path, points: Iterable[Point], patch: str = "", dialect: Dialect = "sqlite"
) -> AsyncIterator[Pair]:
    """Run the two; `patch` breaks b's build on purpose, `dialect` is that of b's database."""
    authority = CertificateAuthority(folder)
    (bound,) = free_sockets(1)
    name = f"127.0.0.1:{bound.getsockname()[1]}"
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    url = await fresh_database(dialect, MIGRATIONS, folder / "b")
    b = mortal_homeserver(folder / "b", authority, [name], points, patch, url)
    here = department(
        folder / "a", "sqlite", name, bound, authority, [name, b.server_name], SystemClock(), {}
    )
    try:
        await b.resume()
        async with here as a:
            alice, bob = await a.person("alice"), await b.person("bob")
            witnesses = [
                Witness(person, f"the device of {person.user_id}") for person in (alice, bob)
            ]
            for witness in witnesses:
                await witness.syncs()
            yield Pair(a, b, alice, bob, witnesses)
    finally:
        await b.stop()
