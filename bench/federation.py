"""Two servers of a kind: joining a large room, events one by one and many at once, catching up.

CPU is that of both together; that of each side stands in a row of its own.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import quote

from bench.arrivals import Arrivals
from bench.cases import LITTLE, Sample
from bench.pairs import REST_S, Prepared, Running, both
from bench.people import Api, at_once

if TYPE_CHECKING:
    from bench.report import Results

EVENTS, PACE_S = 100, 0.1
"""Far enough apart that no server puts two into a transaction."""
LATENCIES = 20
AT_ONCE = 400
WITHIN_S = 1800


@dataclass(frozen=True)
class Round:
    """One round of a pair, and where its figures go."""

    label: str
    pair: Prepared
    results: Results
    quick: bool

    def times(self, whole: int) -> int:
        return whole // 5 if self.quick else whole

    def say(self, what: str) -> None:
        print(f"  {self.label}: {what}", file=sys.stderr)

    def arrivals(self, running: Running, word: str, count: int) -> Arrivals:
        return Arrivals(running.far_api, self.pair.guest, self.pair.room, word, count)

    def add(self, case: str, cpu_s: tuple[float, float], count: int, taken: Taken) -> None:
        """Record the CPU of both sides per operation, and what the driver has seen."""
        here_ms, there_ms = (each * 1000 / count for each in cpu_s)
        sample = Sample(here_ms + there_ms, taken.per_s, taken.p50_ms, taken.p95_ms)
        self.results.add(self.label, f"federation_{case}", sample.cpu_ms, sample)
        for name, figure in (
            ("here", here_ms),
            ("there", there_ms),
            ("p50", taken.p50_ms),
            ("p95", taken.p95_ms),
            ("per_s", taken.per_s),
        ):
            self.results.add(self.label, f"federation_{case}_{name}", figure)

    def add_arrived(
        self, case: str, cpu_s: tuple[float, float], arrivals: Arrivals, wall_s: float
    ) -> None:
        """Record what was read on the far side; what was not is told beside the table."""
        if arrivals.missing:
            sentence = (
                f"{case}: {len(arrivals.missing)} of {arrivals.read + len(arrivals.missing)}"
                f" events could not be read on the other server within {wall_s:.0f} s"
            )
            self.say(sentence)
            self.results.add_failure(self.label, sentence)
        count = max(1, arrivals.read)
        self.add(case, cpu_s, count, Taken([wall_s], count / wall_s))


@dataclass(frozen=True)
class Taken:
    """How long operations took, in seconds, and how many of them there were in a second."""

    each_s: list[float]
    per_s: float

    @property
    def p50_ms(self) -> float:
        return median(self.each_s) * 1000

    @property
    def p95_ms(self) -> float:
        return sorted(self.each_s)[int((len(self.each_s) - 1) * 0.95)] * 1000


async def measure(
    label: str, pair: Prepared, results: Results, *, missed: int, quick: bool
) -> None:
    """One round of all cases; each goes on where the one before has ended.

    `missed`: events that are sent while the second server is away; 0 leaves that case out.
    """
    turn = Round(label, pair, results, quick)
    async with both(pair) as running:
        await _join(turn, running)
        await _events(turn, running)
        await _throughput(turn, running)
    if missed:
        await _catch_up(turn, turn.times(missed))  # the data stays


async def _join(turn: Round, running: Running) -> None:
    turn.say("a join through another server")
    before, began = await running.rest(), time.perf_counter()
    via = quote(str(running.here.kind.server_name))
    path = f"/join/{quote(turn.pair.room)}?via={via}&server_name={via}"
    await running.far_api.ask("POST", path, {}, turn.pair.guest)
    taken = time.perf_counter() - began
    turn.add("join", _used(before, await running.rest()), 1, Taken([taken], 1 / taken))


async def _events(turn: Round, running: Running) -> None:
    turn.say("events from server to server")
    count = turn.times(EVENTS)
    latencies = await _latencies(turn.pair, running)
    before = await running.rest()
    for _ in range(count):
        await running.api.send(turn.pair.owner, turn.pair.room)
        await asyncio.sleep(PACE_S)
    cpu_s = _used(before, await running.rest())
    await _until_read(turn, running)
    turn.add("event", cpu_s, count, Taken(latencies, len(latencies) / sum(latencies)))


async def _latencies(pair: Prepared, running: Running) -> list[float]:
    """Return how long events took from the request to send them to the answer of a long poll."""
    filtered = f"filter={LITTLE}"
    since = (await running.far_api.sync(pair.guest, f"timeout=0&{filtered}"))["next_batch"]
    latencies = []
    for number in range(LATENCIES):
        text = f"now {number}."

        async def awaited(text: str = text) -> None:
            nonlocal since
            while True:
                query = f"timeout=30000&{filtered}&since={quote(since)}"
                answer = await running.far_api.sync(pair.guest, query)
                since = answer["next_batch"]
                if text in str(answer.get("rooms", {})):
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(awaited())
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            await running.api.send(pair.owner, pair.room, text)
        latencies.append(time.perf_counter() - began)
    return latencies


async def _until_read(turn: Round, running: Running) -> None:
    """Return once the other side has what was said last; else the events were never measured."""
    arrivals = turn.arrivals(running, "the last one", 1)
    await running.api.send(turn.pair.owner, turn.pair.room, "the last one 0.")
    await arrivals.wait(time.perf_counter(), 60)
    if arrivals.missing:
        raise RuntimeError(f"{turn.label}: events do not come to the other server")


async def _throughput(turn: Round, running: Running) -> None:
    """Many send as fast as their server answers, until all of it was read on the other one."""
    turn.say("events from server to server, many at once")
    count, pair = turn.times(AT_ONCE), turn.pair
    arrivals = turn.arrivals(running, "at once", count)
    senders = pair.senders
    before, began = await running.rest(), time.perf_counter()
    await at_once(
        len(senders),
        [
            partial(
                running.api.send, senders[number % len(senders)], pair.room, f"at once {number}."
            )
            for number in range(count)
        ],
    )
    await arrivals.wait(began, WITHIN_S)
    wall_s = time.perf_counter() - began
    turn.add_arrived("throughput", _used(before, await running.rest()), arrivals, wall_s)


async def _catch_up(turn: Round, count: int) -> None:
    """Send while the second server is away; start it, and say something there: then all is read.

    Counted is from before the second server starts, as the first may try again by itself at once;
    the start itself is taken off.
    """
    turn.say("what a server has missed")
    pair = turn.pair
    here, there = pair.servers
    async with here.running(), Api(here.base_url) as api:
        for number in range(count):
            await api.send(pair.owner, pair.room, f"missed {number}.")
        await here.settle(REST_S)
        here_before = here.cpu_s()
        async with there.running() as start, Api(there.base_url) as far_api:
            began = time.perf_counter()
            running = Running(here, there, api, far_api)
            arrivals = turn.arrivals(running, "missed", count)
            await far_api.send(pair.guest, pair.room, "back again")
            await arrivals.wait(began, WITHIN_S)
            wall_s = time.perf_counter() - began
            cpu_s = _used((here_before, start.cpu_s), await running.rest())
            turn.add_arrived("catch_up", cpu_s, arrivals, wall_s)


def _used(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    return after[0] - before[0], after[1] - before[1]
