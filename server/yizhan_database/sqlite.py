"""The SQLite backend: reads inline on the event loop, one writer thread, group commit.

Four connections share the file in WAL mode:

- the loop's, for `row` and `rows`: an indexed read takes 4 µs, a thread switch 40;
- the writer's, in `sqlite_writer.py`: takes all queued jobs into one transaction, one fsync;
- the scanner's, on a thread of its own, for reads of any length;
- the checkpointer's, on another, which copies the log into the file behind everybody's back.

Only one process may have the file open: the writer keeps the stream position in memory. A
lock on a side file, which the kernel releases when the process dies, sees to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import apsw

from .database import (
    MAX_PAGE_ROWS,
    MAX_PAGE_SECONDS,
    DatabaseUnavailable,
    OpeningRefused,
    Row,
    StatementRefused,
)
from .jobs import Job
from .migrations import FOUNDATION, new_epoch, pending, sql_for
from .sqlite_writer import UNAVAILABLE, Reservation, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from random import Random

    from .migrations import Migration
    from .transaction import Commit, Transaction, Value

CACHED_STATEMENTS: Final = 500
READER_CACHE_KIB: Final = 16 * 1024
WRITER_CACHE_KIB: Final = 8 * 1024
BUSY_TIMEOUT_MS: Final = 10_000
"""How long the writer waits for the checkpointer's TRUNCATE, or for a backup that ends."""

PASSIVE_CHECKPOINT_BYTES: Final = 4 << 20
TRUNCATE_CHECKPOINT_BYTES: Final = 64 << 20


async def open_sqlite(
    path: str, migrations: Sequence[Migration], *, restless: Random | None = None
) -> SqliteDatabase:
    """Open, and when missing make, the database file. See `open_database` for the errors."""
    loop = asyncio.get_running_loop()
    file = Path(path)
    opened = await loop.run_in_executor(None, _open_file, file, migrations)
    return SqliteDatabase(loop, file, opened, restless)


class _Opened(NamedTuple):
    lock: int
    connection: apsw.Connection
    epoch: str
    position: int


class SqliteDatabase:
    """See `Database`. Made by `open_sqlite`."""

    dialect: Literal["sqlite", "postgresql"] = "sqlite"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        file: Path,
        opened: _Opened,
        restless: Random | None,
    ) -> None:
        self._restless = restless
        self.epoch = opened.epoch
        self.file = file
        self._loop = loop
        self._lock = opened.lock
        self._connection = opened.connection
        self._read = opened.connection.execute
        self._position = opened.position
        self._closed = False
        self._checkpointer = _Checkpointer(file)
        self._writer = Writer(
            _connect(file, WRITER_CACHE_KIB),
            opened.position,
            self._hand_over,
            self._checkpointer.notice,
        )
        self._scanner = ThreadPoolExecutor(1, "yizhan-scan")
        self._scan_connection: apsw.Connection | None = None

    @property
    def position(self) -> int:
        """See `Database.position`."""
        return self._position

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log in use, in bytes; above 64 MiB it is being emptied."""
        return self._checkpointer.wal_bytes

    async def refresh_position(self) -> int:
        """See `Database.refresh_position`: there is no other process."""
        return self._position

    async def row(self, sql: str, *args: Value) -> Row | None:
        """See `Database.row`."""
        if self._restless is not None:
            await _yield_at_random(self._restless)
        try:
            # The cursor dies here, which ends the read transaction: a cursor kept alive
            # would keep the log from being reused.
            return self._read(sql, args).fetchone()
        except apsw.Error as error:
            raise _translated(error, sql) from error

    async def rows(self, sql: str, *args: Value) -> list[Row]:
        """See `Database.rows`."""
        if self._restless is not None:
            await _yield_at_random(self._restless)
        try:
            return self._read(sql, args).fetchall()
        except apsw.Error as error:
            raise _translated(error, sql) from error

    async def scan(self, sql: str, *args: Value, after: Value) -> AsyncIterator[Row]:
        """See `Database.scan`."""
        while True:
            page, is_last = await self._loop.run_in_executor(
                self._scanner, self._read_page, sql, (*args, after, MAX_PAGE_ROWS)
            )
            for row in page:
                yield row
            if is_last:
                return
            after = page[-1][0]

    def submit(self, tx: Transaction) -> asyncio.Future[Commit]:
        """See `Database.submit`."""
        job = Job(tx, self._loop)
        if self._closed:
            job.fail(DatabaseUnavailable("the database is closed"))
            job.answer()
        else:
            self._writer.enqueue(job)
        return job.future

    async def commit(self, tx: Transaction) -> Commit:
        """See `Database.commit`."""
        return await self.submit(tx)

    async def reserve(self, counter: str, count: int) -> range:
        """See `Database.reserve`."""
        reservation = Reservation(f"reserve:{counter}", count)
        await self.submit(reservation)
        return range(reservation.end - count, reservation.end)

    async def backup_to(self, path: Path) -> None:
        """Copy the database, as it is at one moment, to a new file while it is in use.

        The copy has no epoch and gets one when it is first opened, so that nobody takes
        stream tokens given out after the copy for its own. FileExistsError when `path` is
        there; DatabaseUnavailable when it cannot be written.
        """
        await self._loop.run_in_executor(None, copy_sqlite, self.file, path)

    async def close(self) -> None:
        """See `Database.close`."""
        if self._closed:
            return
        self._closed = True
        await self._loop.run_in_executor(None, self._writer.finish)
        # The writer's last delivery was scheduled before this coroutine's continuation.
        await self._loop.run_in_executor(None, self._release)

    def _release(self) -> None:
        self._scanner.shutdown()
        self._checkpointer.finish()
        if self._scan_connection is not None:
            self._scan_connection.close()
        self._connection.close()
        os.close(self._lock)

    def _read_page(self, sql: str, args: Sequence[Value]) -> tuple[list[Row], bool]:
        try:
            if self._scan_connection is None:
                self._scan_connection = _connect(self.file, READER_CACHE_KIB, read_only=True)
            deadline = time.monotonic() + MAX_PAGE_SECONDS
            page: list[Row] = []
            cursor = self._scan_connection.execute(sql, args)
            try:
                for row in cursor:
                    page.append(row)
                    if time.monotonic() > deadline:
                        return page, False
            finally:
                cursor.close(True)  # noqa: FBT003 - apsw takes it by position only
        except apsw.Error as error:
            raise _translated(error, sql) from error
        else:
            return page, len(page) < MAX_PAGE_ROWS

    def _hand_over(self, jobs: Sequence[Job]) -> None:
        """Called by the writer thread, once per batch."""
        # A loop that was closed without closing the database has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, jobs)

    def _deliver(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.commit is not None and job.commit.positions:
                self._position = job.commit.positions[-1]
            job.answer()


class _Checkpointer:
    """Copies the log into the file on a thread of its own, away from writer and readers."""

    def __init__(self, file: Path) -> None:
        self.wal_bytes = 0
        self._file = file
        self._wanted = threading.Event()
        self._ending = False
        self._checkpointed = 0
        self._thread = threading.Thread(target=self._run, name="yizhan-checkpoint", daemon=True)
        self._thread.start()

    def notice(self, wal_bytes: int) -> None:
        """Called by the writer after each commit with the length of the log."""
        if wal_bytes < self.wal_bytes:
            self._checkpointed = 0  # the log was begun anew
        self.wal_bytes = wal_bytes
        if wal_bytes - self._checkpointed >= PASSIVE_CHECKPOINT_BYTES:
            self._checkpointed = wal_bytes
            self._wanted.set()

    def finish(self) -> None:
        """End the thread after the checkpoint that is under way."""
        self._ending = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        connection = _connect(self._file, 512)
        try:
            while True:
                self._wanted.wait()
                self._wanted.clear()
                if self._ending:
                    return
                mode = apsw.SQLITE_CHECKPOINT_PASSIVE
                if self.wal_bytes > TRUNCATE_CHECKPOINT_BYTES:
                    mode = apsw.SQLITE_CHECKPOINT_TRUNCATE
                try:
                    connection.wal_checkpoint(mode=mode)
                except apsw.Error:
                    # Busy with a long reader, or the disk is full: the next commit that
                    # lets the log grow asks again, and `wal_bytes` shows it.
                    continue
        finally:
            connection.close()


async def _yield_at_random(random: Random) -> None:
    """Let other coroutines run, so that check-then-act races show in tests."""
    for _ in range(random.choice((0, 0, 1, 3))):
        await asyncio.sleep(0)


def _open_file(file: Path, migrations: Sequence[Migration]) -> _Opened:
    """Lock, make, migrate."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _access_alone(file)
    except OSError as error:
        raise DatabaseUnavailable(f"cannot open {file}: {error.strerror}") from error
    try:
        # Made by us and not by SQLite: the log and its index inherit these permissions.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        writer = _connect(file, WRITER_CACHE_KIB)
        try:
            epoch, position = _migrate(writer, migrations, str(file))
        finally:
            writer.close()
        connection = _connect(file, READER_CACHE_KIB, read_only=True)
        return _Opened(lock, connection, epoch, position)
    except (apsw.Error, OSError) as error:
        os.close(lock)
        raise DatabaseUnavailable(f"cannot open {file}: {error}") from error
    except BaseException:
        os.close(lock)
        raise


def _access_alone(file: Path) -> int:
    """Take the lock of `file` and return its descriptor, or refuse with a sentence."""
    lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode("ascii", "replace").strip() or "?"
        os.close(lock)
        raise OpeningRefused(
            f"The database {file} is in use by process {holder}. Stop that program first, or"
            f" start this one with another data folder."
            f" 数据库 {file} 正被进程 {holder} 使用。请先停止该程序，或为本程序指定另一个数据目录。"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _connect(file: Path, cache_kib: int, *, read_only: bool = False) -> apsw.Connection:
    connection = apsw.Connection(
        str(file), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=CACHED_STATEMENTS
    )
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    if read_only:
        # Not by an open flag: a connection that may not write cannot recover the log.
        connection.execute("PRAGMA query_only = ON")
    return connection


def _migrate(
    connection: apsw.Connection, migrations: Sequence[Migration], where: str
) -> tuple[str, int]:
    """Bring the schema up to date; return the epoch and the stream position."""
    with connection:
        connection.execute(sql_for(FOUNDATION, "sqlite"))
    applied = _single(connection, "SELECT coalesce(max(version), 0) FROM yizhan_migration")
    for migration in pending(migrations, applied, where):
        with connection:
            connection.execute(migration.sql_for("sqlite"))
            connection.execute(
                "INSERT INTO yizhan_migration (version, name) VALUES (?, ?)",
                (migration.version, migration.name),
            )
    with connection:
        connection.execute(
            "INSERT INTO yizhan_meta (key, value) VALUES ('epoch', ?) ON CONFLICT DO NOTHING",
            (new_epoch(),),
        )
    epoch = _single(connection, "SELECT value FROM yizhan_meta WHERE key = 'epoch'")
    position = _single(connection, "SELECT value FROM yizhan_counter WHERE name = 'position'")
    return epoch, position


def _single(connection: apsw.Connection, sql: str) -> Any:
    for (value,) in connection.execute(sql):
        return value
    raise DatabaseUnavailable("a table of the database is empty")


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database file that may be in use, by any process; see `backup_to`."""
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        into = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            origin = _connect(source, 512, read_only=True)
            try:
                # In one step: one read transaction, so a busy writer cannot make it restart.
                with into.backup("main", origin, "main") as backup:
                    backup.step(-1)
            finally:
                origin.close()
            into.execute("PRAGMA journal_mode = DELETE")
            into.execute("DELETE FROM yizhan_meta WHERE key = 'epoch'")
        finally:
            into.close()
    except apsw.Error as error:
        target.unlink()
        raise DatabaseUnavailable(f"cannot copy {source} to {target}: {error}") from error


def _translated(error: apsw.Error, sql: str) -> Exception:
    # A read that would write is a bug, not a read-only disk.
    if isinstance(error, UNAVAILABLE) and not isinstance(error, apsw.ReadOnlyError):
        return DatabaseUnavailable(str(error))
    return StatementRefused(f"{error} in {sql}")
