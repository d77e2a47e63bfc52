"""Scans of any length, lists of values, and what a scan leaves behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from yizhan_database import StatementRefused, Transaction, in_list

if TYPE_CHECKING:
    from yizhan_database import Database

ADD_ENTRY = "INSERT INTO entry (nid, pos, writer, number, body) VALUES (?, ?, ?, ?, ?)"
UPWARDS = "SELECT nid, number FROM entry WHERE writer = ? AND nid > ? ORDER BY nid LIMIT ?"
DOWNWARDS = "SELECT nid, number FROM entry WHERE writer = ? AND nid < ? ORDER BY nid DESC LIMIT ?"


async def add_entries(database: Database, count: int) -> None:
    tx = Transaction()
    tx.execute_many(ADD_ENTRY, [(n, None, "ab"[n % 2], -n, b"") for n in range(1, count + 1)])
    await database.commit(tx)


@pytest.mark.parametrize("count", [0, 1, 1999, 2000, 2001, 6001])
async def test_a_scan_yields_each_row_once_and_in_order(database: Database, count: int) -> None:
    await add_entries(database, count)

    up = [row async for row in database.scan(UPWARDS, "a", after=0)]
    down = [row async for row in database.scan(DOWNWARDS, "b", after=count + 1)]

    assert up == [(n, -n) for n in range(2, count + 1, 2)]
    assert down == [(n, -n) for n in range(1, count + 1, 2)][::-1]


async def test_a_scan_goes_on_while_others_write_and_sees_what_they_add_ahead_of_it(
    database: Database,
) -> None:
    await add_entries(database, 4000)
    seen = []
    async for nid, _ in database.scan(UPWARDS, "a", after=0):
        seen.append(nid)
        if nid == 10:
            tx = Transaction()
            tx.execute(ADD_ENTRY, 9998, None, "a", 0, b"")
            await database.commit(tx)
    assert seen == [*range(2, 4001, 2), 9998]


async def test_a_scan_that_is_abandoned_or_refused_disturbs_nobody(database: Database) -> None:
    await add_entries(database, 3000)
    async for nid, _ in database.scan(UPWARDS, "a", after=0):
        if nid > 100:
            break
    with pytest.raises(StatementRefused):
        async for _ in database.scan("SELECT nid FROM nowhere WHERE nid > ? LIMIT ?", after=0):
            pass
    assert len([row async for row in database.scan(UPWARDS, "b", after=0)]) == 1500


async def test_many_reads_at_once_are_all_answered(database: Database) -> None:
    await add_entries(database, 50)
    found = await asyncio.gather(
        *(database.row("SELECT number FROM entry WHERE nid = ?", n % 50 + 1) for n in range(300))
    )
    assert found == [(-(n % 50 + 1),) for n in range(300)]


async def test_a_cancelled_read_leaves_its_connection_usable(database: Database) -> None:
    await add_entries(database, 50)
    for _ in range(20):
        async with asyncio.TaskGroup() as tasks:
            reading = [
                tasks.create_task(database.row("SELECT number FROM entry WHERE nid = ?", 1))
                for _ in range(20)
            ]
            await asyncio.sleep(0)
            for task in reading[::2]:
                task.cancel()
        assert [task.result() for task in reading[1::2] if not task.cancelled()] == [(-1,)] * 10


async def test_lists_of_every_length_and_type_match_their_members(database: Database) -> None:
    await add_entries(database, 40)
    for nids in ([], [7], [1, 2, 3], range(1, 34), {5, 6}, [10**15], list(range(1, 3000))):
        expected = sorted(n for n in nids if 1 <= n <= 40)
        found = await database.rows(
            *in_list("SELECT nid FROM entry WHERE nid IN (??) ORDER BY nid", list(nids))
        )
        assert [nid for (nid,) in found] == expected
    found = await database.rows(
        *in_list(
            "SELECT nid FROM entry WHERE number > ? AND writer IN (??) AND nid IN (??)"
            " AND body = ? ORDER BY nid",
            -9, ("a", "c", "d"), [2, 3, 4, 20], b"",
        )
    )  # fmt: skip
    assert found == [(2,), (4,)]


async def test_a_list_may_be_written_with(database: Database) -> None:
    await add_entries(database, 6)
    tx = Transaction()
    tx.execute(*in_list("UPDATE entry SET number = ? WHERE nid IN (??)", 5, [2, 4, 6]))
    await database.commit(tx)
    assert await database.row("SELECT count(*) FROM entry WHERE number = 5") == (3,)


def test_few_statements_serve_all_lengths_of_a_list() -> None:
    texts = {in_list("SELECT (??)", list(range(count)))[0] for count in range(1, 1025)}
    assert len(texts) == 11


@pytest.mark.parametrize(
    ("sql", "args"),
    [
        ("SELECT ?", ([1],)),
        ("SELECT (??)", (1,)),
        ("SELECT (??), (??)", ([1],)),
        ("SELECT (??)", (list(range(40_000)),)),
    ],
)
def test_lists_that_do_not_fit_are_refused(sql: str, args: tuple[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"do not fit|too many"):
        in_list(sql, *args)
