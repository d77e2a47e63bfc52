"""Stream positions and reserved numbers: given out once, in the order of commits, no holes."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Lane, Transaction, open_database

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_database import Commit, Database

ADD_SLOT = "INSERT INTO slot (nid, ver, text) VALUES (?, ?, ?)"
ADD_ENTRY = "INSERT INTO entry (nid, pos, writer, number, body) VALUES (?, ?, ?, ?, ?)"
ADVANCE = "UPDATE slot SET ver = ver + 1 WHERE nid = ? AND ver = ?"
WRITERS = 12
JOBS_EACH = 25


async def write_some(database: Database, writer: int, random: Random, base: int) -> int:
    """Commit jobs of one to three positions; some fail on purpose. Return how many succeeded."""
    done = 0
    slot = random.randrange(1, 5)
    for number in range(JOBS_EACH):
        seen = await database.row("SELECT ver FROM slot WHERE nid = ?", slot)
        assert seen is not None
        tx = Transaction(Lane(order=slot))
        tx.guard(ADVANCE, slot, seen[0])
        for part in range(random.randrange(1, 4)):
            nid = base + (writer * JOBS_EACH + number) * 3 + part
            tx.execute(ADD_ENTRY, nid, tx.position(), f"{base}/{writer}", number, b"body")
        try:
            commit = await database.commit(tx)
        except GuardFailed:
            continue  # another writer of this slot was faster: expected, and undone
        assert list(commit.positions) == sorted(commit.positions)
        done += len(commit.positions)
    return done


async def watch(database: Database, finished: asyncio.Event) -> int:
    """Follow the stream as a cursor does; whatever is skipped once is never seen again."""
    cursor = 0
    while True:
        is_last = finished.is_set()
        rows = await database.rows(
            "SELECT pos FROM entry WHERE pos > ? ORDER BY pos LIMIT 500", cursor
        )
        assert [pos for (pos,) in rows] == list(range(cursor + 1, cursor + 1 + len(rows)))
        cursor += len(rows)
        if is_last and not rows:
            return cursor
        await asyncio.sleep(0)


async def make_slots(database: Database) -> None:
    tx = Transaction()
    tx.execute_many(ADD_SLOT, [(nid, 0, "") for nid in range(1, 5)])
    await database.commit(tx)


async def test_a_reader_that_follows_many_writers_never_skips(database: Database) -> None:
    await make_slots(database)
    random = Random(7)
    finished = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(database, finished))
        writing = [
            tasks.create_task(write_some(database, n, Random(random.random()), 0))
            for n in range(WRITERS)
        ]
        await asyncio.wait(writing)
        finished.set()

    assert watching.result() == sum(task.result() for task in writing) == database.position


async def test_a_reader_that_follows_writers_of_several_processes_never_skips(
    dialect: str, url: str, schema: Path
) -> None:
    # Several Database objects share nothing but the server, as processes do.
    count = 3 if dialect == "postgresql" else 1
    databases = [await open_database(url, schema) for _ in range(count)]
    await make_slots(databases[0])
    finished = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(watch(database, finished)) for database in databases]
        writing = [
            tasks.create_task(write_some(database, n, Random(n), (place + 1) * 100_000))
            for place, database in enumerate(databases)
            for n in range(WRITERS // 2)
        ]
        await asyncio.wait(writing)
        finished.set()

    written = sum(task.result() for task in writing)
    assert [task.result() for task in watching] == [written] * count
    assert [await database.refresh_position() for database in databases] == [written] * count
    for database in databases:
        await database.close()


async def test_positions_follow_the_order_of_submission(database: Database) -> None:
    told: list[int] = []

    def note(commit: Commit) -> None:
        told.extend(commit.positions)

    futures = []
    for number in range(300):
        tx = Transaction(on_commit=note)
        tx.execute(ADD_ENTRY, number, tx.position(), "w", number, b"")
        futures.append(database.submit(tx))
        if number % 50 == 0:
            await asyncio.sleep(0)
    commits = await asyncio.gather(*futures)

    assert [commit.positions for commit in commits] == [(n + 1,) for n in range(300)]
    assert told == list(range(1, 301))
    rows = await database.rows("SELECT number FROM entry ORDER BY pos")
    assert [number for (number,) in rows] == list(range(300))


async def test_positions_numbers_and_epoch_survive_a_restart(url: str, schema: Path) -> None:
    first = await open_database(url, schema)
    tx = Transaction()
    tx.execute(ADD_ENTRY, 1, tx.position(), "w", 1, b"")
    await first.commit(tx)
    assert await first.reserve("nid", 10) == range(1, 11)
    await first.close()

    second = await open_database(url, schema)
    assert (second.epoch, second.position) == (first.epoch, 1)
    assert await second.reserve("nid", 1) == range(11, 12)
    tx = Transaction()
    tx.execute(ADD_ENTRY, 2, tx.position(), "w", 2, b"")
    assert (await second.commit(tx)).positions == (2,)
    await second.close()


async def test_reserved_numbers_are_given_to_one_caller_only(database: Database) -> None:
    blocks = await asyncio.gather(*(database.reserve("nid", 7) for _ in range(40)))
    numbers = sorted(number for block in blocks for number in block)
    assert numbers == list(range(1, 281))
    # A counter of that name is not the stream's.
    assert await database.reserve("position", 5) == range(1, 6)
    assert database.position == 0
