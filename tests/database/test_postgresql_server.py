"""What is PostgreSQL's own: lost connections, commits without an answer, deadlocks."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from yizhan_database import (
    Commit,
    CommitUnknown,
    DatabaseUnavailable,
    GuardFailed,
    Lane,
    StatementRefused,
    Transaction,
    open_database,
    postgresql,
)
from yizhan_testing.databases import EmbeddedPostgres, embedded_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from yizhan_database import Database

ADD_ENTRY = "INSERT INTO entry (nid, pos, writer, number, body) VALUES (?, ?, 'w', ?, ?)"
ADD_SLOT = "INSERT INTO slot (nid, ver, text) VALUES (?, 0, '')"
ADVANCE = "UPDATE slot SET ver = ver + 1 WHERE nid = ? AND ver = ?"


def entry(nid: int) -> Transaction:
    tx = Transaction()
    tx.execute(ADD_ENTRY, nid, tx.position(), nid, b"")
    return tx


class Wire:
    """Stands between program and server, and can fall silent when COMMIT passes by."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server = server
        self.path = folder / ".s.PGSQL.5432"
        self.is_cut = False
        self.passes_commit = True
        self.drop_next_commit = False
        self.refuses_afterwards = False
        self.commits_dropped = 0

    async def serve(
        self, program_in: asyncio.StreamReader, program_out: asyncio.StreamWriter
    ) -> None:
        if self.is_cut:
            program_out.close()
            return
        server_in, server_out = await asyncio.open_unix_connection(self._server)
        try:
            async with asyncio.TaskGroup() as tasks:
                answers = tasks.create_task(self._pump(server_in, program_out))
                while data := await program_in.read(65536):
                    if self.drop_next_commit and b"COMMIT\0" in data:
                        self.drop_next_commit = False
                        self.commits_dropped += 1
                        self.is_cut = self.refuses_afterwards
                        answers.cancel()
                        if self.passes_commit:
                            server_out.write(data)
                            await server_in.read(65536)  # the answer, kept from the program
                        break
                    server_out.write(data)
                answers.cancel()
        finally:
            server_out.close()
            program_out.close()

    @staticmethod
    async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()


@asynccontextmanager
async def connected_by_wire(schema: Path, tmp_path: Path) -> AsyncIterator[tuple[Wire, Database]]:
    server = embedded_postgres()
    url = await server.fresh_database(schema)
    folder = url.partition("host=")[2]
    wire = Wire(type(tmp_path)(folder) / ".s.PGSQL.5432", tmp_path)
    listening = await asyncio.start_unix_server(wire.serve, wire.path)
    database = await open_database(url.replace(folder, str(tmp_path)), schema)
    try:
        yield wire, database
    finally:
        await database.close()
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize("passes_commit", [True, False])
async def test_a_commit_whose_answer_is_lost_is_looked_up_and_happens_once(
    schema: Path, tmp_path: Path, *, passes_commit: bool
) -> None:
    async with connected_by_wire(schema, tmp_path) as (wire, database):
        await database.commit(entry(1))
        wire.passes_commit = passes_commit
        wire.drop_next_commit = True

        outcomes = await asyncio.gather(*(database.submit(entry(nid)) for nid in range(2, 30)))

        assert wire.commits_dropped == 1
        assert [outcome.positions for outcome in outcomes] == [(nid,) for nid in range(2, 30)]
        assert await database.rows("SELECT nid, pos FROM entry ORDER BY nid") == [
            (nid, nid) for nid in range(1, 30)
        ]


async def test_when_the_outcome_cannot_be_learnt_the_caller_is_told_so(
    schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "OUTCOME_SECONDS", 0.3)
    async with connected_by_wire(schema, tmp_path) as (wire, database):
        await database.commit(entry(1))
        wire.drop_next_commit = wire.refuses_afterwards = True
        with pytest.raises(CommitUnknown):
            await database.commit(entry(2))
        with pytest.raises(DatabaseUnavailable) as refusal:
            await database.commit(entry(3))
        assert not isinstance(refusal.value, CommitUnknown)

        wire.is_cut = False
        assert await database.row("SELECT pos FROM entry WHERE nid = 2") == (2,)
        assert (await database.commit(entry(3))).positions == (3,)


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    own = EmbeddedPostgres()
    yield own
    own.stop()


async def test_while_the_server_is_away_all_fails_and_once_back_all_goes_on(
    server: EmbeddedPostgres, schema: Path
) -> None:
    database = await open_database(await server.fresh_database(schema), schema)
    await database.commit(entry(1))
    assert await database.row("SELECT count(*) FROM entry") == (1,)

    await asyncio.to_thread(server.kill)
    with pytest.raises(DatabaseUnavailable):
        await database.row("SELECT count(*) FROM entry")
    with pytest.raises(DatabaseUnavailable):
        await database.commit(entry(2))
    with pytest.raises(DatabaseUnavailable):
        await database.reserve("nid", 1)

    await asyncio.to_thread(server.start)
    # No caller has to fail only to find out that the old connections are dead.
    assert await database.row("SELECT count(*) FROM entry") == (1,)
    assert (await database.commit(entry(2))).positions == (2,)

    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert (await database.commit(entry(3))).positions == (3,)
    assert (
        await asyncio.gather(*(database.row("SELECT max(pos) FROM entry") for _ in range(40)))
        == [(3,)] * 40
    )
    await database.close()


async def test_processes_that_lock_rows_crosswise_all_succeed(schema: Path) -> None:
    url = await embedded_postgres().fresh_database(schema)
    databases = [await open_database(url, schema) for _ in range(2)]
    tx = Transaction()
    tx.execute_many(ADD_SLOT, [(nid,) for nid in range(1, 21)])
    await databases[0].commit(tx)

    def advance(nid: int) -> Transaction:
        job = Transaction(Lane(order=0))  # no order: they will deadlock now and then
        job.guard("UPDATE slot SET ver = ver + 1 WHERE nid = ?", nid)
        job.execute("UPDATE slot SET text = ? WHERE nid = ?", "x", 21 - nid)
        return job

    futures = []
    for round_ in range(10):
        for place, database in enumerate(databases):
            nids = range(1, 21) if place == 0 else range(20, 0, -1)
            futures += [database.submit(advance(nid)) for nid in nids]
        if round_ % 3 == 2:
            await asyncio.sleep(0)
    outcomes = await asyncio.gather(*futures, return_exceptions=True)

    assert [outcome for outcome in outcomes if not isinstance(outcome, Commit)] == []
    assert await databases[0].rows("SELECT DISTINCT ver FROM slot") == [(20,)]
    for database in databases:
        await database.close()


async def test_of_two_processes_that_advance_the_same_row_one_is_refused(schema: Path) -> None:
    url = await embedded_postgres().fresh_database(schema)
    databases = [await open_database(url, schema) for _ in range(2)]
    tx = Transaction()
    tx.execute(ADD_SLOT, 1)
    await databases[0].commit(tx)
    won = [0, 0]
    for version in range(30):
        jobs = [Transaction(), Transaction()]
        for number, tx in enumerate(jobs):
            tx.guard(ADVANCE, 1, version)
            tx.execute(ADD_ENTRY, version * 2 + number, tx.position(), version, b"")
        outcomes = await asyncio.gather(
            *(database.submit(tx) for database, tx in zip(databases, jobs, strict=True)),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Commit", "GuardFailed"]
        won[isinstance(outcomes[0], GuardFailed)] += 1
    assert await databases[0].row("SELECT count(*), max(pos) FROM entry") == (30, 30)
    for database in databases:
        await database.close()


async def test_values_never_appear_in_errors(
    schema: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = await open_database(await embedded_postgres().fresh_database(schema), schema)
    secret = "hunter2"
    jobs = [Transaction() for _ in range(3)]
    jobs[0].execute(ADD_SLOT, secret)  # of the wrong type
    jobs[1].execute("INSERT INTO slot (nid, ver, text) VALUES (1, 0, ?)", secret)
    jobs[2].execute("INSERT INTO slot (nid, ver, text) VALUES (1, CAST(? AS BIGINT), '')", secret)
    outcomes = await asyncio.gather(*map(database.submit, jobs), return_exceptions=True)
    with pytest.raises(StatementRefused) as refusal:
        await database.row("SELECT 1 FROM slot WHERE nid = ?", secret)

    assert [type(outcome).__name__ for outcome in outcomes] == [
        "StatementRefused",
        "Commit",
        "StatementRefused",
    ]
    told = "".join(
        str(error) + str(error.__cause__)
        for error in (*outcomes, refusal.value)
        if isinstance(error, Exception)
    )
    assert secret not in told + caplog.text
    await database.close()
