"""A program that commits as fast as it can and names on stdout what was acknowledged."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from yizhan_database import Transaction, open_database

CALLERS = 20


async def main(url: str, schema: Path) -> None:
    database = await open_database(url, schema)
    first = (await database.reserve("nid", 1_000_000)).start
    numbers = iter(range(first, first + 1_000_000))

    async def call() -> None:
        for nid in numbers:
            tx = Transaction()
            tx.execute(
                "INSERT INTO entry (nid, pos, writer, number, body) VALUES (?, ?, ?, ?, ?)",
                nid, tx.position(), "crash", nid, b"x" * 300,
            )  # fmt: skip
            # Two rows, so that half a job would be seen.
            tx.execute("INSERT INTO slot (nid, ver, text) VALUES (?, 0, '')", nid)
            commit = await database.commit(tx)
            print(nid, commit.positions[0], flush=True)  # noqa: T201

    await asyncio.gather(*(call() for _ in range(CALLERS)))


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
