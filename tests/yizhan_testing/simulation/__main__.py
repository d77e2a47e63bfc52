"""Plays seeds; says how to play each that fails again."""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import os
import secrets
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

from yizhan_testing.databases import embedded_postgres
from yizhan_testing.simulation import inline_writer, orderly_postgresql
from yizhan_testing.simulation.faults import FAULTS
from yizhan_testing.simulation.simulation import Simulation
from yizhan_testing.simulation.town import Town
from yizhan_testing.simulation.virtual_time import VirtualClock, VirtualLoop

_random = Random(0)


def _draw_secrets_from_the_seed() -> None:
    """Make IDs and tokens the same on every run. For a process of its own."""
    secrets.token_bytes = lambda nbytes=None: _random.randbytes(nbytes or 32)
    secrets.token_hex = lambda nbytes=None: _random.randbytes(nbytes or 32).hex()
    secrets.token_urlsafe = secrets.token_hex
    secrets.choice = _random.choice
    secrets.randbelow = lambda exclusive_upper_bound: int(_random.random() * exclusive_upper_bound)


async def _play(town: Town, clock: VirtualClock, seed: int, acts: int) -> str:
    _random.seed(seed)
    inline_writer.install(Random(f"writer {seed}"))
    simulation = Simulation(seed, acts)
    try:
        outcome = await simulation.play(town, clock)
    except BaseException:
        sys.stderr.write("\n".join([*simulation.outcome.log, ""]))
        raise
    digest = hashlib.sha256("\n".join(outcome.log).encode()).hexdigest()
    return (
        f"{outcome.acts} acts, {outcome.restarts} restarts, {outcome.carried} requests,"
        f" {outcome.events} events, {outcome.forks} lines of state, {outcome.agreements} agree,"
        f" digest {digest[:12]}"
    )


def _say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def main() -> int:
    """Play what the command line says; returns how many seeds failed."""
    parser = argparse.ArgumentParser(prog="python -m yizhan_testing.simulation")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--acts", type=int, default=50, help="acts in each")
    parser.add_argument("--fault", choices=FAULTS, help="a fault that the first server gets")
    parser.add_argument("--postgresql", action="store_true", help="in place of SQLite")
    parser.add_argument("--verbose", action="store_true")
    wish = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        parser.error("set PYTHONHASHSEED=0, or the order of sets makes each run another one")
    logging.basicConfig(level=logging.INFO if wish.verbose else logging.CRITICAL)
    _draw_secrets_from_the_seed()
    # Nobody is connected to: reading the authorities of the system would be most of a start.
    os.environ |= {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
    if wish.fault:
        FAULTS[wish.fault]()
    failed = []
    # The kernel's memory, where syncing costs nothing.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        postgres = None
        if wish.postgresql:
            postgres = embedded_postgres()
            orderly_postgresql.install()
        town = Town(Path(folder), postgres)
        # On a loop of its own, so that the first seed begins when all others begin.
        loop = VirtualLoop()
        clock = VirtualClock(loop)
        clock.install()
        inline_writer.install(Random(0))
        loop.run_until_complete(town.build(clock))
        loop.close()
        for seed in range(wish.seed, wish.seed + wish.count):
            loop = VirtualLoop()
            clock = VirtualClock(loop)
            started = time.perf_counter()
            clock.install()
            try:
                said = loop.run_until_complete(_play(town, clock, seed, wish.acts))
                _say(f"seed {seed}: {said}, {time.perf_counter() - started:.2f} s")
            except Exception:  # noqa: BLE001 - whatever it is, the other seeds are played
                failed.append(seed)
                traceback.print_exc()
                fault = f" --fault {wish.fault}" if wish.fault else ""
                fault += " --postgresql" if wish.postgresql else ""
                _say(
                    f"seed {seed} FAILED; again: PYTHONHASHSEED=0 {sys.executable} -m"
                    f" yizhan_testing.simulation --seed {seed} --acts {wish.acts}{fault}"
                )
            finally:
                loop.close()
                gc.collect()
    return min(len(failed), 100)


if __name__ == "__main__":
    sys.exit(main())
