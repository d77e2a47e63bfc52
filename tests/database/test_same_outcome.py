"""Any sequence of jobs ends the same on both backends, however PostgreSQL arranges it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yizhan_database import Commit, GuardFailed, Lane, StatementRefused, Transaction, open_database
from yizhan_testing.databases import fresh_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_database import Database

NIDS = st.integers(1, 4)
SMALL = st.integers(0, 2)

# Statements that meet one another in every way: inserts that conflict, children before and
# after their parents, cascades, reads of other tables, several tables in one statement.
STATEMENTS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "INSERT INTO slot (nid, ver, text) VALUES (?, ?, 'new')": (NIDS, SMALL),
    "INSERT INTO slot (nid, ver, text) VALUES (?, 0, 'up')"
    " ON CONFLICT (nid) DO UPDATE SET ver = slot.ver + 1": (NIDS,),
    "UPDATE slot SET ver = ver + 1 WHERE nid = ?": (NIDS,),
    "UPDATE slot SET ver = (SELECT count(*) FROM note WHERE note.slot = slot.nid)"
    " WHERE nid = ?": (NIDS,),
    "DELETE FROM slot WHERE nid = ?": (NIDS,),
    "INSERT INTO note (nid, slot) VALUES (?, ?) ON CONFLICT DO NOTHING": (NIDS, NIDS),
    "INSERT INTO note (nid, slot) SELECT nid + 10, nid FROM slot WHERE ver = ?"
    " ON CONFLICT DO NOTHING": (SMALL,),
    "DELETE FROM note WHERE slot = ?": (NIDS,),
    "UPDATE entry SET number = number + 1 WHERE writer = 'w'": (),
    "DELETE FROM entry WHERE number > ?": (SMALL,),
    "INSERT INTO entry (nid, writer, number, body) SELECT coalesce(max(nid), 0) + 1, 'n', 0, body"
    " FROM entry GROUP BY body HAVING max(nid) < 1000": (),
}  # fmt: skip
GUARDS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "UPDATE slot SET ver = ver + 1 WHERE nid = ? AND ver = ?": (NIDS, SMALL),
    "UPDATE note SET weight = 1 WHERE nid = ?": (NIDS,),
    "INSERT INTO note (nid, slot) VALUES (?, ?) ON CONFLICT DO NOTHING": (NIDS, NIDS),
    "DELETE FROM slot WHERE ver > ?": (SMALL,),
}
ADD_AT_POS = "INSERT INTO entry (nid, pos, writer, number, body) VALUES (?, ?, 'w', 0, '')"
NOTE_AT_POS = "UPDATE note SET pos = ? WHERE nid = ?"


@dataclass(frozen=True)
class Step:
    kind: str
    sql: str
    args: tuple[Any, ...]


def _steps(kind: str, statements: dict[str, tuple[st.SearchStrategy[Any], ...]]) -> Any:
    return st.one_of(
        [
            st.tuples(*args).map(lambda values, sql=sql: Step(kind, sql, values))  # type: ignore[misc]
            for sql, args in statements.items()
        ]
    )


STEPS = st.one_of(
    _steps("execute", STATEMENTS),
    _steps("guard", GUARDS),
    st.builds(Step, st.just("add"), st.just(ADD_AT_POS), st.just(())),
    st.builds(Step, st.just("mark"), st.just(NOTE_AT_POS), st.tuples(NIDS)),
)
JOBS = st.lists(
    st.tuples(st.lists(STEPS, min_size=1, max_size=5), st.sampled_from([None, 0, 1])),
    min_size=1,
    max_size=10,
)


def build(jobs: list[tuple[list[Step], int | None]], base: int) -> list[Transaction]:
    lanes = [Lane(), Lane()]
    made = []
    nid = base * 1000
    for steps, lane in jobs:
        tx = Transaction(None if lane is None else lanes[lane])
        for step in steps:
            if step.kind == "execute":
                tx.execute(step.sql, *step.args)
            elif step.kind == "guard":
                tx.guard(step.sql, *step.args)
            elif step.kind == "add":
                nid += 1
                tx.execute(step.sql, nid, tx.position())
            else:
                tx.execute(step.sql, tx.position(), *step.args)
        made.append(tx)
    return made


def outcome(result: Commit | BaseException, base: int) -> object:
    if isinstance(result, Commit):
        return [pos - base for pos in result.positions]
    if isinstance(result, GuardFailed):
        return ("guard failed", result.index)
    if isinstance(result, StatementRefused):
        return "refused"
    raise result


async def run(database: Database, jobs: list[tuple[list[Step], int | None]]) -> object:
    """Return what became of each job and what is in the tables."""
    clean = Transaction()
    for sql in ("DELETE FROM entry", "DELETE FROM note", "DELETE FROM slot"):
        clean.execute(sql)
    clean.execute("INSERT INTO slot (nid, ver, text) VALUES (1, 0, 'a'), (2, 1, 'b')")
    await database.commit(clean)
    base = database.position

    results = await asyncio.gather(
        *[database.submit(tx) for tx in build(jobs, 1)], return_exceptions=True
    )
    return (
        [outcome(result, base) for result in results],
        await database.rows("SELECT nid, ver, text FROM slot ORDER BY nid"),
        await database.rows("SELECT nid, slot, pos - ?, weight FROM note ORDER BY nid", base),
        await database.rows("SELECT nid, pos - ?, writer, number FROM entry ORDER BY nid", base),
    )


@pytest.fixture
async def both(schema: Path, tmp_path: Path) -> AsyncIterator[list[Database]]:
    opened = [
        await open_database(await fresh_database(dialect, schema, tmp_path), schema)
        for dialect in ("sqlite", "postgresql")
    ]
    yield opened
    for database in opened:
        await database.close()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(jobs=JOBS)
async def test_jobs_end_the_same_on_both(
    both: list[Database], jobs: list[tuple[list[Step], int | None]]
) -> None:
    sqlite, postgresql = [await run(database, jobs) for database in both]
    assert sqlite == postgresql
