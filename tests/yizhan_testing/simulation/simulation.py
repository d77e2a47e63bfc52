"""One simulation: people act, the network fails them, then all is quiet and must agree."""

from __future__ import annotations

import asyncio
import logging
import random as global_random
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
from typing_extensions import override

from yizhan_config.tasks import Background
from yizhan_testing.homeserver import Person, Refused
from yizhan_testing.replica import Replica, all_messages
from yizhan_testing.simulation.acts import Acts, path_of, server_of
from yizhan_testing.simulation.agreement import check_agreement, check_answers
from yizhan_testing.simulation.network import Network, serving
from yizhan_testing.simulation.town import NAMES, Server, Town
from yizhan_testing.simulation.views import Disagreement, residents
from yizhan_testing.simulation.virtual_time import VirtualClock

HANDS = 4
"""People who act at the same time."""

KILLED = 0.5
"""Of the servers that end, those that end by force."""

LONGEST_AWAY_S = 6.0

QUIET_WITHIN_S = 20_000
"""Of the simulation's time: servers that failed are left alone for up to an hour."""


class UnorderedReplica(Replica):
    """A client that does not expect /messages in the order of /sync: that is the DAG's."""

    @property
    @override
    def sees_all(self) -> bool:
        return False

    @override
    async def check(self) -> None:
        """Compare with the server, which must be quiet."""
        for room_id, state in self.joined.items():
            events: Any = await self.person.get(path_of(room_id, "state"))
            actual = {(event["type"], event["state_key"]) for event in events}
            # That a resolution has removed a key altogether, no answer of /sync can say.
            for key in state.keys() - actual:
                del state[key]
        await super().check()
        for room_id, span in self.spans.items():
            missing = set(span) - set(await all_messages(self.person, room_id, 100))
            assert not missing, (self.person.user_id, room_id, missing)


class _Errors(logging.Handler):
    """Collects what the servers log as errors: none of it may happen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self.dying = ""
        """The server that is being killed: whatever it does about that does not matter."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if self.dying and serving.get("") == self.dying:
            return
        error = record.exc_info[1] if record.exc_info else None
        self.found.append(f"{record.name}: {record.getMessage()}: {error!r}")


@dataclass
class Outcome:
    """What a simulation came to."""

    acts: int = 0
    restarts: int = 0
    carried: int = 0
    events: int = 0
    forks: int = 0
    agreements: int = 0
    virtual_s: float = 0
    log: list[str] = field(default_factory=list)


class Simulation:
    """Plays one seed."""

    def __init__(self, seed: int, acts: int) -> None:
        self._random = Random(seed)
        self._count = acts
        self._network = Network(Random(f"network {seed}"))
        self._seed = seed
        self._errors = _Errors()
        self.outcome = Outcome()

    async def play(self, town: Town, clock: VirtualClock) -> Outcome:
        """Play it. Disagreement, AssertionError or Refused when a server is at fault."""
        global_random.seed(self._seed)
        logger = logging.getLogger()
        logger.addHandler(self._errors)
        try:
            async with town.opened(self._seed, self._network, clock) as servers:
                await self._play(servers)
        finally:
            logger.removeHandler(self._errors)
        return self.outcome

    async def _play(self, servers: list[Server]) -> None:
        people = [person for server in servers for person in server.people]
        acts = Acts(self._random, people, NAMES)
        self.outcome.log = acts.log
        replicas = [UnorderedReplica(person, state_after=True) for person in people]
        founder = self._random.choice(people)
        await acts.founds(founder)
        room = acts.rooms[0]
        for person in people[:: self._random.choice([1, 2])]:
            await acts.joins(person, room, server_of(founder))
        self._network.is_faulty = True
        async with Background() as background:
            weather = background.spawn("weather", self._weather())
            background.spawn("syncing", self._sync_now_and_then(replicas))
            accidents = background.spawn("accidents", self._accidents(servers))
            self._left = self._count
            await asyncio.gather(*(self._hand(acts) for _ in range(HANDS)))
            weather.cancel()
            self._network.heal()
            await accidents.wait()
            await self._until_quiet(servers)
            await self._ask_again(acts, people)
            await self._until_quiet(servers)
            await self._speak_in_turn(acts, servers)
        await self._check(acts, servers, replicas)

    async def _hand(self, acts: Acts) -> None:
        while self._left > 0:
            self._left -= 1
            await acts.act()
            await asyncio.sleep(self._random.expovariate(1.0))

    async def _weather(self) -> None:
        """Part some servers from the others, now and then."""
        while True:
            await asyncio.sleep(self._random.uniform(2, 20))
            self._network.part(frozenset(self._random.sample(NAMES, self._random.choice([1, 2]))))
            await asyncio.sleep(self._random.uniform(2, 15))
            self._network.part(frozenset())

    async def _accidents(self, servers: list[Server]) -> None:
        """Now and then end a server, half of the time by force, and start it again."""
        random = Random(f"accidents {self._seed}")
        while True:
            await asyncio.sleep(random.uniform(1, 12))
            if self._left <= 0:
                return
            server, by_force = random.choice(servers), random.random() < KILLED
            self._errors.dying = server.server_name if by_force else ""
            await server.end(by_force=by_force)
            self._errors.dying = ""
            self.outcome.log.append(f"{server.server_name} {'killed' if by_force else 'ended'}")
            await asyncio.sleep(random.uniform(0, LONGEST_AWAY_S))
            await server.start()
            self.outcome.restarts += 1

    async def _sync_now_and_then(self, replicas: list[UnorderedReplica]) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 2))
            with suppress(aiohttp.ClientConnectionError):
                await self._random.choice(replicas).syncs()

    async def _ask_again(self, acts: Acts, people: list[Person]) -> None:
        """Join again where nobody knows what became of a join; then everybody does."""
        for user_id, room in sorted(acts.unanswered):
            person = next(each for each in people if each.user_id == user_id)
            for via in NAMES:
                try:
                    await acts.joins(person, room, via)
                except Refused:
                    continue
                break

    async def _until_quiet(self, servers: list[Server]) -> None:
        """Return when nobody owes anybody anything."""
        async with asyncio.timeout(QUIET_WITHIN_S):
            while True:
                await asyncio.sleep(20)
                if not self._network.under_way and not await self._busy(servers):
                    return

    async def _busy(self, servers: list[Server]) -> bool:
        for server in servers:
            if await server.db.row("SELECT 1 FROM busy_destination LIMIT 1") is not None:
                return True
        return False

    async def _speak_in_turn(self, acts: Acts, servers: list[Server]) -> None:
        """Have every server of every room say something, so that one event follows all."""
        for room in acts.rooms:
            for server in await residents(servers, room):
                for person in server.people:
                    # Of somebody else on its server the person need not be in the room.
                    await acts.tries(acts.says, person, room)
                await self._until_quiet(servers)

    async def _check(
        self, acts: Acts, servers: list[Server], replicas: list[UnorderedReplica]
    ) -> None:
        for room in acts.rooms:
            self.outcome.agreements += await check_agreement(servers, room)
            for server in await residents(servers, room):
                await check_answers(server, room)
        for replica in replicas:
            await replica.syncs()
            await replica.check()
        if self._errors.found:
            raise Disagreement("errors were logged: " + "; ".join(self._errors.found[:5]))
        outcome = self.outcome
        outcome.acts = len(acts.log)
        outcome.carried = self._network.carried
        outcome.virtual_s = asyncio.get_running_loop().time()
        for server in servers:
            rows = await server.db.rows("SELECT count(*) FROM event WHERE pos > 0")
            outcome.events += int(rows[0][0])
            rows = await server.db.rows("SELECT count(*) FROM state_line")
            outcome.forks += int(rows[0][0])
