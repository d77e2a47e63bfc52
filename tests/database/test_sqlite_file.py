"""What is SQLite's own: one process per file, permissions, full disks, the log, copies."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import apsw
import pytest

from yizhan_database import (
    Commit,
    DatabaseUnavailable,
    Lane,
    LaneFailed,
    OpeningRefused,
    Transaction,
    open_database,
)
from yizhan_database.sqlite import TRUNCATE_CHECKPOINT_BYTES, SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

ADD_ENTRY = "INSERT INTO entry (nid, pos, writer, number, body) VALUES (?, ?, 'w', ?, ?)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "data" / "test.db"


@pytest.fixture
async def sqlite(file: Path, schema: Path) -> AsyncIterator[SqliteDatabase]:
    database = await open_database(f"sqlite://{file}", schema)
    assert isinstance(database, SqliteDatabase)
    yield database
    await database.close()


@pytest.fixture
def connections() -> Iterator[list[apsw.Connection]]:
    """Every connection that is opened during the test."""
    opened: list[apsw.Connection] = []
    apsw.connection_hooks.append(opened.append)
    yield opened
    apsw.connection_hooks.remove(opened.append)


def entry(nid: int, size: int = 0, lane: Lane | None = None) -> Transaction:
    tx = Transaction(lane)
    tx.execute(ADD_ENTRY, nid, tx.position(), nid, b"x" * size)
    return tx


async def test_only_the_owner_may_look_into_files_and_folders_that_are_made(
    sqlite: SqliteDatabase, file: Path
) -> None:
    await sqlite.commit(entry(1))
    assert {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {
        "test.db": 0o600,
        "test.db-wal": 0o600,
        "test.db-shm": 0o600,
        "test.db.lock": 0o600,
    }
    assert file.parent.stat().st_mode & 0o777 == 0o700


async def test_a_second_process_is_refused_until_the_first_has_died(
    file: Path, schema: Path
) -> None:
    program = (
        "import asyncio, sys, pathlib, yizhan_database\n"
        "async def main():\n"
        "    await yizhan_database.open_database(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "    print('open', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, f"sqlite://{file}", schema,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    with pytest.raises(OpeningRefused, match=rf"in use by process {process.pid}\b.*正被进程"):
        await open_database(f"sqlite://{file}", schema)

    process.kill()
    await process.wait()
    await (await open_database(f"sqlite://{file}", schema)).close()


async def test_the_same_process_is_refused_too_until_it_closes(
    sqlite: SqliteDatabase, file: Path, schema: Path
) -> None:
    with pytest.raises(OpeningRefused, match=f"process {os.getpid()}"):
        await open_database(f"sqlite://{file}", schema)
    await sqlite.commit(entry(1))  # the refused attempt has not disturbed the first
    await sqlite.close()
    await (await open_database(f"sqlite://{file}", schema)).close()


async def test_on_a_full_disk_writes_fail_reads_go_on_and_nothing_is_half_there(
    connections: list[apsw.Connection], sqlite: SqliteDatabase
) -> None:
    await sqlite.commit(entry(1, 100))
    limited = [connection for connection in connections if is_open(connection)]
    for connection in limited:
        connection.execute("PRAGMA max_page_count = 60")
    lane = Lane()
    heard: list[Commit] = []
    jobs = [entry(nid, 3000, lane if nid == 100 else None) for nid in range(2, 101)]
    for tx in jobs:
        tx.after_commit(heard.append)
    outcomes = await asyncio.gather(*map(sqlite.submit, jobs), return_exceptions=True)

    committed = [outcome for outcome in outcomes if isinstance(outcome, Commit)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, DatabaseUnavailable)]
    assert len(committed) + len(failed) == len(jobs)
    assert 5 < len(committed) < 60
    assert heard == committed
    assert await sqlite.row("SELECT count(*), max(pos) FROM entry") == (
        len(committed) + 1,
        len(committed) + 1,
    )
    with pytest.raises(LaneFailed):
        await sqlite.commit(entry(500, 0, lane))

    for connection in limited:
        connection.execute("PRAGMA max_page_count = 100000")
    after = await sqlite.commit(entry(501, 3000))
    assert after.positions == (len(committed) + 2,)


def is_open(connection: apsw.Connection) -> bool:
    try:
        return bool(connection.filename)
    except apsw.ConnectionClosedError:
        return False


async def test_a_file_that_became_read_only_for_us_fails_writes_and_serves_reads(
    connections: list[apsw.Connection], sqlite: SqliteDatabase
) -> None:
    await sqlite.commit(entry(1))
    for connection in filter(is_open, connections):
        connection.execute("PRAGMA query_only = ON")
    with pytest.raises(DatabaseUnavailable):
        await sqlite.commit(entry(2))
    assert await sqlite.row("SELECT count(*) FROM entry") == (1,)


async def test_every_connection_waits_for_the_disk_and_keeps_foreign_keys(
    connections: list[apsw.Connection], sqlite: SqliteDatabase
) -> None:
    # A loss of power cannot be staged here; what SQLite promises for it hangs on these.
    await sqlite.commit(entry(1))
    in_use = [connection for connection in connections if is_open(connection)]
    assert len(in_use) >= 3
    for connection in in_use:
        settings = [
            connection.execute(f"PRAGMA {name}").fetchall()[0][0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        ]
        assert settings == ["wal", 2, 1, 0]


async def test_the_log_is_emptied_while_reads_and_writes_go_on(
    sqlite: SqliteDatabase, file: Path
) -> None:
    wal = file.with_name("test.db-wal")
    nids = iter(range(1, 10**6))
    largest = 0
    written = 0
    while written < 2 * TRUNCATE_CHECKPOINT_BYTES:
        await asyncio.gather(*(sqlite.commit(entry(next(nids), 200_000)) for _ in range(10)))
        written += 2_000_000
        largest = max(largest, sqlite.wal_bytes, wal.stat().st_size)
        count = 0
        async for _ in sqlite.scan(
            "SELECT nid FROM entry WHERE nid > ? ORDER BY nid LIMIT ?", after=0
        ):
            count += 1
        assert count == written // 200_000
    assert 0 < sqlite.wal_bytes <= largest < 1.5 * TRUNCATE_CHECKPOINT_BYTES


async def test_what_is_acknowledged_is_in_the_file_when_callbacks_run(
    sqlite: SqliteDatabase, file: Path
) -> None:
    onlooker = apsw.Connection(str(file))
    seen = []

    def look(commit: Commit) -> None:
        (last,) = onlooker.execute("SELECT max(pos) FROM entry").fetchall()[0]
        assert isinstance(last, int)
        seen.append(commit.positions[0] <= last)

    jobs = [entry(nid) for nid in range(200)]
    for tx in jobs:
        tx.after_commit(look)
    await asyncio.gather(*map(sqlite.submit, jobs))
    assert seen == [True] * 200
    onlooker.close()


async def test_a_copy_made_under_load_is_whole_and_begins_a_new_epoch(
    sqlite: SqliteDatabase, schema: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    for start in range(0, 400, 20):
        jobs = asyncio.gather(*(sqlite.commit(entry(start + n, 2000)) for n in range(20)))
        if start == 200:
            await asyncio.gather(jobs, sqlite.backup_to(copy))
        else:
            await jobs
    with pytest.raises(FileExistsError):
        await sqlite.backup_to(copy)
    assert copy.stat().st_mode & 0o777 == 0o600

    restored = await open_database(f"sqlite://{copy}", schema)
    assert restored.epoch != sqlite.epoch
    assert 200 <= restored.position <= 220
    assert await restored.row("SELECT count(*), max(pos) FROM entry") == (restored.position,) * 2
    assert (await restored.commit(entry(1000))).positions == (restored.position,)
    await restored.close()
