"""Run the benchmark: `python -m bench [--quick] [--only CASE] [--compare yizhan synapse]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import federation, pairs
from bench.cases import CASES, Case, Stage, populate
from bench.people import Api, Person
from bench.report import Results
from bench.servers import KINDS, REPOSITORY, Cores, Server, Template

FEDERATION = "federation"
"""Four cases that build on one another, with two servers of each kind."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Contestant:
    """A server, and its installation as it was when its people had just arrived."""

    server: Server
    template: Template
    people: list[Person]


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [*(case.name for case in CASES), FEDERATION]
    parser.add_argument(
        "--compare",
        nargs="+",
        choices=sorted(KINDS),
        default=["yizhan", "synapse"],
        metavar="SERVER",
        help="the servers; the last is the reference. One named twice shows the noise.",
    )
    parser.add_argument("--only", action="append", choices=names, metavar="CASE")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--quick", action="store_true", help="one round, a fifth of the work")
    parser.add_argument(
        "--members", type=int, default=1000, help="of the room that another server joins"
    )
    parser.add_argument(
        "--missed", type=int, default=5000, help="events that a server away misses; 0: none"
    )
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    parser.add_argument("--docs", action="store_true", help="write the table to performance.md")
    return parser.parse_args(words)


async def prepare(server: Server) -> Contestant:
    server.make_new()
    async with server.running(), Api(server.base_url) as api:
        people = await populate(api)
    return Contestant(server, server.keep(), people)


async def measure_start(server: Server, results: Results) -> None:
    """A new installation until its first answer, and its memory at rest."""
    server.make_new()
    async with server.running() as start:
        results.add(server.label, "start_first", start.cpu_s)
        await server.settle()
        results.add(server.label, "memory_idle", server.pss_mib())


async def measure_cases(
    contestant: Contestant, cases: list[Case], results: Results, *, quick: bool
) -> None:
    server = contestant.server
    server.restore(contestant.template)
    async with server.running() as start, Api(server.base_url) as api:
        results.add(server.label, "start_again", start.cpu_s)
        stage = Stage(server, api, contestant.people, quick)
        for case in cases:
            print(f"  {server.label}: {case.title}", file=sys.stderr)
            sample = await case.run(stage)
            results.add(server.label, case.name, sample.cpu_ms, sample)
        if len(cases) == len(CASES):
            results.add(server.label, "memory_after", server.pss_mib())


async def run(arguments: argparse.Namespace) -> Results:
    cores = Cores.choose()
    if cores.driver is not None:
        os.sched_setaffinity(0, {cores.driver})
    cases = [case for case in CASES if not arguments.only or case.name in arguments.only]
    rounds = 1 if arguments.quick else arguments.repeat
    results = Results(rounds=rounds, quick=arguments.quick, pinned=cores.server is not None)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if not cases:
            await run_federation(arguments, Path(folder), cores, results)
            return results
        contestants: list[Contestant] = []
        for number, name in enumerate(arguments.compare):
            kind = KINDS[name]()
            again = name in arguments.compare[:number]
            server = Server(
                kind, f"{name} again" if again else name, Path(folder, str(number)), cores
            )
            results.add_server(server.label, kind.version())
            print(f"preparing {server.label}", file=sys.stderr)
            contestants.append(await prepare(server))
        # Round by round and not server by server: what the machine does meanwhile hits them alike.
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for contestant in contestants:
                await measure_start(contestant.server, results)
                await measure_cases(contestant, cases, results, quick=arguments.quick)
        if not arguments.only or FEDERATION in arguments.only:
            await run_federation(arguments, Path(folder), cores, results)
    return results


async def run_federation(
    arguments: argparse.Namespace, folder: Path, cores: Cores, results: Results
) -> None:
    """Measure what servers ask of one another: two of a kind at a time."""
    members = arguments.members // 5 if arguments.quick else arguments.members
    prepared: dict[str, pairs.Prepared] = {}
    for number, name in enumerate(arguments.compare):
        label = f"{name} again" if name in arguments.compare[:number] else name
        if label not in results.servers:
            results.add_server(label, KINDS[name]().version())
        print(f"preparing two of {label}", file=sys.stderr)
        own = folder / f"federation{number}"
        own.mkdir()
        prepared[label] = await pairs.prepare(name, label, own, cores, members)
    for number in range(results.rounds):
        print(f"federation, round {number + 1} of {results.rounds}", file=sys.stderr)
        # Once: only to send what is missed, in a large room, takes Synapse more than all the rest.
        missed = 0 if number else arguments.missed
        for label, pair in prepared.items():
            await federation.measure(label, pair, results, missed=missed, quick=arguments.quick)


def main() -> int:
    arguments = parse(sys.argv[1:])
    results = asyncio.run(run(arguments))
    print(results.table())
    results.write(RESULTS)
    if arguments.docs:
        results.write_table_into(REPOSITORY / "docs" / "performance.md")
    for sentence in results.failure_sentences():
        print(sentence)
    missed = results.missed_targets()
    for sentence in missed:
        print(f"target missed: {sentence}")
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
