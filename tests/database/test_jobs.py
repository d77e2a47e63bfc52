"""What a submitted job promises: all or nothing, in order, durable before anybody is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from yizhan_database import (
    DatabaseUnavailable,
    GuardFailed,
    Lane,
    LaneFailed,
    StatementRefused,
    Transaction,
)

if TYPE_CHECKING:
    from yizhan_database import Commit, Database

ADD_SLOT = "INSERT INTO slot (nid, ver, text) VALUES (?, ?, ?)"
ADD_ENTRY = "INSERT INTO entry (nid, pos, writer, number, body) VALUES (?, ?, ?, ?, ?)"
ADVANCE = "UPDATE slot SET ver = ver + 1 WHERE nid = ? AND ver = ?"


async def add_slots(database: Database, count: int = 3) -> None:
    tx = Transaction()
    tx.execute_many(ADD_SLOT, [(nid, 0, f"slot {nid}") for nid in range(1, count + 1)])
    await database.commit(tx)


async def slots(database: Database) -> list[tuple[int, int]]:
    return [
        (nid, ver) for nid, ver in await database.rows("SELECT nid, ver FROM slot ORDER BY nid")
    ]


async def test_values_of_every_type_come_back_as_they_were_given(database: Database) -> None:
    tx = Transaction()
    text = "驿站 'quoted' \"double\" ? $1 \U0001f600"
    tx.execute(ADD_SLOT, 2**62, -(2**62), text)
    tx.execute("INSERT INTO note (nid, slot, pos, weight) VALUES (1, ?, ?, ?)", 2**62, None, 0.5)
    tx.execute(ADD_ENTRY, 1, None, "", 0, b"\x00\xff")
    await database.commit(tx)

    assert await database.row("SELECT nid, ver, text FROM slot") == (2**62, -(2**62), text)
    assert await database.rows("SELECT slot, pos, weight FROM note") == [(2**62, None, 0.5)]
    assert await database.row("SELECT body, writer FROM entry WHERE nid = ?", 1) == (
        b"\x00\xff",
        "",
    )
    assert await database.row("SELECT 1 FROM slot WHERE nid = ?", 5) is None
    assert await database.rows("SELECT 1 FROM slot WHERE text = '?' AND nid = ?", 5) == []


async def test_a_guard_that_changes_nothing_undoes_its_whole_job_and_no_other(
    database: Database,
) -> None:
    await add_slots(database)
    before = Transaction()
    before.guard(ADVANCE, 1, 0)
    missing = Transaction()
    missing.execute("UPDATE slot SET ver = 50 WHERE nid = 2")
    missing.guard(ADVANCE, 3, 0)
    missing.guard(ADVANCE, 1, 0)  # `before` has advanced it
    after = Transaction()
    after.guard(ADVANCE, 3, 0)

    outcomes = await asyncio.gather(
        *(database.submit(tx) for tx in (before, missing, after)), return_exceptions=True
    )

    assert isinstance(outcomes[1], GuardFailed)
    assert outcomes[1].index == 1
    assert not isinstance(outcomes[0], BaseException)
    assert not isinstance(outcomes[2], BaseException)
    assert await slots(database) == [(1, 1), (2, 0), (3, 1)]


async def test_a_guard_that_changes_two_rows_undoes_its_job(database: Database) -> None:
    await add_slots(database)
    greedy = Transaction()
    greedy.guard("UPDATE slot SET ver = 9 WHERE nid < ?", 3)
    modest = Transaction()
    modest.guard("UPDATE slot SET ver = 9 WHERE nid > ?", 2)

    first, second = await asyncio.gather(
        database.submit(greedy), database.submit(modest), return_exceptions=True
    )

    assert isinstance(first, GuardFailed)
    assert first.index == 0
    assert not isinstance(second, BaseException)
    assert await slots(database) == [(1, 0), (2, 0), (3, 9)]


async def test_after_a_failure_the_rest_of_its_lane_fails_and_other_lanes_go_on(
    database: Database,
) -> None:
    await add_slots(database)
    lane, other = Lane(order=1), Lane(order=2)
    jobs = []
    for chosen, nid, ver in ((lane, 1, 0), (lane, 1, 7), (other, 2, 0), (lane, 1, 1)):
        tx = Transaction(chosen)
        tx.guard(ADVANCE, nid, ver)
        jobs.append(tx)

    outcomes = await asyncio.gather(*map(database.submit, jobs), return_exceptions=True)
    later = Transaction(lane)
    later.guard(ADVANCE, 1, 1)  # would succeed, were it not built on what has failed

    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Commit",
        "GuardFailed",
        "Commit",
        "LaneFailed",
    ]
    assert lane.failed
    assert not other.failed
    with pytest.raises(LaneFailed):
        await database.commit(later)
    assert await slots(database) == [(1, 1), (2, 1), (3, 0)]


async def test_a_refused_statement_fails_its_own_job_only(database: Database) -> None:
    await add_slots(database)
    lane = Lane()
    jobs = [Transaction(lane if number == 2 else None) for number in range(5)]
    for number, tx in enumerate(jobs):
        tx.execute("UPDATE slot SET ver = ver + ? WHERE nid = 3", 10**number)
        tx.execute(ADD_SLOT, 1 if number == 2 else number + 100, 0, "new")

    outcomes = await asyncio.gather(*map(database.submit, jobs), return_exceptions=True)

    assert [isinstance(outcome, StatementRefused) for outcome in outcomes] == [
        number == 2 for number in range(5)
    ]
    assert lane.failed
    assert await slots(database) == [
        (1, 0), (2, 0), (3, 11011), (100, 0), (101, 0), (103, 0), (104, 0)
    ]  # fmt: skip


async def test_an_unknown_table_is_refused_in_reads_and_writes(database: Database) -> None:
    tx = Transaction()
    tx.execute("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(StatementRefused):
        await database.commit(tx)
    with pytest.raises(StatementRefused):
        await database.row("SELECT 1 FROM nowhere")
    with pytest.raises(StatementRefused):
        await database.rows("SELECT nothing FROM slot")
    assert await database.row("SELECT count(*) FROM slot") == (0,)


async def test_reads_cannot_write(database: Database) -> None:
    with pytest.raises(StatementRefused):
        await database.row("INSERT INTO slot VALUES (1, 1, 'x')")


async def test_callbacks_run_in_commit_order_before_their_future_and_only_on_success(
    database: Database,
) -> None:
    await add_slots(database)
    story: list[str] = []

    def submit(number: int, version: int) -> asyncio.Future[Commit]:
        def note_first(_: Commit) -> None:
            story.append(f"first {number}")

        def note_second(commit: Commit) -> None:
            story.append(f"second {number} at {commit[pos]}, database {database.position}")

        def note_done(_: asyncio.Future[Commit]) -> None:
            story.append(f"done {number}")

        tx = Transaction(on_commit=note_first)
        tx.guard(ADVANCE, 1, version)
        pos = tx.position()
        tx.execute(ADD_ENTRY, number, pos, "w", number, b"")
        tx.after_commit(note_second)
        future = database.submit(tx)
        future.add_done_callback(note_done)
        return future

    futures = [submit(0, 0), submit(1, 7), submit(2, 1), submit(3, 2)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)

    assert isinstance(outcomes[1], GuardFailed)
    told = [line for line in story if not line.startswith("done")]
    assert told == [
        "first 0", "second 0 at 1, database 1",
        "first 2", "second 2 at 2, database 2",
        "first 3", "second 3 at 3, database 3",
    ]  # fmt: skip
    for number in (0, 2, 3):
        assert story.index(f"done {number}") > story.index(f"first {number}")


async def test_a_callback_that_raises_is_reported_and_changes_nothing(database: Database) -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
    heard: list[Commit] = []

    def breaks(_: Commit) -> None:
        raise ValueError("a bug of the caller")

    tx = Transaction(on_commit=breaks)
    tx.after_commit(heard.append)
    tx.execute(ADD_SLOT, 1, 0, "x")
    commit = await database.commit(tx)

    assert heard == [commit]
    assert [str(what["exception"]) for what in reported] == ["a bug of the caller"]
    assert await slots(database) == [(1, 0)]


async def test_cancelling_a_commit_does_not_withdraw_the_job(database: Database) -> None:
    heard: list[Commit] = []
    tx = Transaction(on_commit=heard.append)
    tx.execute(ADD_SLOT, 1, 0, "x")
    async with asyncio.TaskGroup() as tasks:
        committing = tasks.create_task(database.commit(tx))
        await asyncio.sleep(0)  # it is submitted and waits
        committing.cancel()
    await add_after(database)

    assert len(heard) == 1
    assert await slots(database) == [(1, 0), (2, 0)]


async def add_after(database: Database) -> None:
    tx = Transaction()
    tx.execute(ADD_SLOT, 2, 0, "later")
    await database.commit(tx)


async def test_closing_commits_what_was_submitted_and_refuses_what_comes_later(
    database: Database,
) -> None:
    futures = []
    for nid in range(50):
        tx = Transaction()
        tx.execute(ADD_SLOT, nid, 0, "x")
        futures.append(database.submit(tx))

    await database.close()
    await database.close()

    assert [future.result().positions for future in futures] == [()] * 50
    late = Transaction()
    late.execute(ADD_SLOT, 99, 0, "x")
    with pytest.raises(DatabaseUnavailable):
        await database.commit(late)


async def test_a_transaction_is_submitted_once(database: Database) -> None:
    tx = Transaction()
    tx.execute(ADD_SLOT, 1, 0, "x")
    await database.commit(tx)
    with pytest.raises(RuntimeError):
        await database.submit(tx)


async def test_a_large_job_is_one_transaction_in_its_place(database: Database) -> None:
    await add_slots(database, 1)
    jobs = [Transaction() for _ in range(3)]
    jobs[0].guard(ADVANCE, 1, 0)
    jobs[1].guard(ADVANCE, 1, 1)
    first = jobs[1].position()
    second = jobs[1].position()
    jobs[1].execute_many(
        ADD_ENTRY,
        [(n, (first, second)[n] if n < 2 else None, "large", n, b"x" * 50) for n in range(6000)],
    )
    jobs[2].guard(ADVANCE, 1, 2)
    last = jobs[2].position()
    jobs[2].execute(ADD_ENTRY, 6000, last, "small", 0, b"")

    outcomes = await asyncio.gather(*map(database.submit, jobs))

    assert [outcome.positions for outcome in outcomes] == [(), (1, 2), (3,)]
    assert await database.row("SELECT count(*), max(pos) FROM entry") == (6001, 3)

    undone = Transaction()
    undone.execute_many(ADD_ENTRY, [(n, None, "again", n, b"") for n in range(7000, 8000)])
    undone.guard(ADVANCE, 1, 0)
    with pytest.raises(GuardFailed):
        await database.commit(undone)
    assert await database.row("SELECT count(*) FROM entry") == (6001,)
