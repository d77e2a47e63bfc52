"""The PostgreSQL backend: held connections for reads, one ordered writer per process.

The writer gathers all queued jobs into one transaction, arranged by `postgresql_plan`. The
row of the position counter is locked in it, after everything that carries no position, and
stays locked until the commit: therefore commit order is position order among all processes.

When a batch fails it is divided, with what comes before the culprit committed first, so that
a guard is judged as if the jobs had been run one after the other.

After a lost connection a batch is tried once more, unless COMMIT had been sent: then the
server is asked what became of that transaction, by its number. Only when it cannot be asked
for 30 s do the jobs fail with `CommitUnknown`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

import asyncpg  # type: ignore[import-untyped]

from yizhan_config.tasks import Background

from .database import (
    MAX_PAGE_ROWS,
    CommitUnknown,
    DatabaseUnavailable,
    GuardFailed,
    LaneFailed,
    Row,
    StatementRefused,
)
from .jobs import Job, into_batches
from .migrations import FOUNDATION, new_epoch, pending, sql_for
from .postgresql_plan import Catalogue, Group, Plan, plan_batch
from .transaction import Commit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from .migrations import Migration
    from .transaction import Transaction, Value

log = logging.getLogger(__name__)

READERS: Final = 8
CACHED_STATEMENTS: Final = 500
CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 60
"""After this long without an answer the other end counts as dead."""

OUTCOME_SECONDS: Final = 30
DEADLOCK_ATTEMPTS: Final = 5
_MIGRATION_LOCK: Final = 0x79697A68616E

_UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_DEADLOCK: Final = (
    asyncpg.exceptions.DeadlockDetectedError,
    asyncpg.exceptions.SerializationError,
    asyncpg.exceptions.LockNotAvailableError,
)


async def open_postgresql(url: str, migrations: Sequence[Migration]) -> PostgresqlDatabase:
    """Connect and migrate. See `open_database` for the errors."""
    try:
        connection = await _connect(url)
        try:
            epoch, position = await _migrate(connection, migrations)
            catalogue = await _read_catalogue(connection)
        finally:
            await connection.close()
    except _UNAVAILABLE as error:
        raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {_reason(error)}") from None
    return PostgresqlDatabase(url, epoch, position, catalogue)


class PostgresqlDatabase:
    """See `Database`. Made by `open_postgresql`."""

    dialect: Literal["sqlite", "postgresql"] = "postgresql"

    def __init__(self, url: str, epoch: str, position: int, catalogue: Catalogue) -> None:
        self.epoch = epoch
        self._url = url
        self._position = position
        self._loop = asyncio.get_running_loop()
        self._readers = _Readers(url, READERS, read_only=True)
        # Not through the writer: no batch shall hold a counter's row while it waits.
        self._counters = _Readers(url, 1, read_only=False)
        self._writer = _Writer(url, catalogue, self._deliver)
        self._background = Background()
        self._writing = self._background.spawn("database writer", self._writer.run())
        self._closed = False

    @property
    def position(self) -> int:
        """See `Database.position`."""
        return self._position

    async def refresh_position(self) -> int:
        """See `Database.refresh_position`."""
        row = await self.row("SELECT value FROM yizhan_counter WHERE name = 'position'")
        assert row is not None
        self._position = max(self._position, row[0])
        return self._position

    async def row(self, sql: str, *args: Value) -> Row | None:
        """See `Database.row`."""
        found = await self._readers.fetch(_numbered(sql), args, 1)
        return tuple(found[0]) if found else None

    async def rows(self, sql: str, *args: Value) -> list[Row]:
        """See `Database.rows`."""
        return [tuple(record) for record in await self._readers.fetch(_numbered(sql), args, 0)]

    async def scan(self, sql: str, *args: Value, after: Value) -> AsyncIterator[Row]:
        """See `Database.scan`."""
        numbered = _numbered(sql)
        while True:
            page = await self._readers.fetch(numbered, (*args, after, MAX_PAGE_ROWS), 0)
            for record in page:
                yield tuple(record)
            if len(page) < MAX_PAGE_ROWS:
                return
            after = page[-1][0]

    def submit(self, tx: Transaction) -> asyncio.Future[Commit]:
        """See `Database.submit`."""
        job = Job(tx, self._loop)
        if self._closed or self._writing.done:
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
        # May be run twice after a lost connection: a number lost is only a gap.
        ((end,),) = await self._counters.fetch(
            "INSERT INTO yizhan_counter (name, value) VALUES ($1, $2) ON CONFLICT (name)"
            " DO UPDATE SET value = yizhan_counter.value + excluded.value RETURNING value + 1",
            (f"reserve:{counter}", count),
            0,
        )
        return range(end - count, end)

    async def close(self) -> None:
        """See `Database.close`."""
        if self._closed:
            return
        self._closed = True
        self._writer.finish()
        await self._writing.wait()
        await self._background.stop()
        await self._readers.close()
        await self._counters.close()

    def _deliver(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.commit is not None and job.commit.positions:
                self._position = max(self._position, job.commit.positions[-1])
            job.answer()


class _Readers:
    """A few held connections. asyncpg's own pool costs 40 us more for each query."""

    def __init__(self, url: str, count: int, *, read_only: bool) -> None:
        self._url = url
        self._read_only = read_only
        # None stands for a connection that is still to be made, or was lost.
        self._idle: list[Any] = [None] * count
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def fetch(self, sql: str, args: Sequence[Value], limit: int) -> list[Any]:
        """Run one statement; `limit` 0 means all rows. Tried again once on a new connection."""
        while not self._idle:
            await self._wait()
        connection = self._idle.pop()
        try:
            if connection is not None:
                try:
                    return await _fetch(connection, sql, args, limit)
                except (*_UNAVAILABLE, asyncpg.InterfaceError) as error:
                    if not connection.is_closed():
                        raise _translated(error, sql) from None
            if self._closed:
                raise DatabaseUnavailable("the database is closed")
            connection = await _connect(self._url, read_only=self._read_only)
            return await _fetch(connection, sql, args, limit)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise _translated(error, sql) from None
        finally:
            if connection is not None and connection.is_closed():
                connection = None
            self._idle.append(connection)
            self._wake_one()

    async def close(self) -> None:
        self._closed = True
        for connection in filter(None, self._idle):
            await _close(connection)
        self._idle = [None] * len(self._idle)

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake_one()  # it was our turn; it is the next one's now
            raise

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class _ConnectionLost(Exception):
    """The connection ended before anything was committed."""


class _GuardMissed(Exception):
    """A guard of a batch failed; `job` is None when it was one of many run together."""

    def __init__(self, job: int | None, guard: int) -> None:
        super().__init__(job, guard)
        self.job = job
        self.guard = guard


class _Writer:
    """Commits jobs in the order in which they were enqueued, on one connection."""

    def __init__(
        self, url: str, catalogue: Catalogue, deliver: Callable[[Sequence[Job]], None]
    ) -> None:
        self._url = url
        self._catalogue = catalogue
        self._deliver = deliver
        self._queue: list[Job] = []
        self._wake = asyncio.Event()
        self._ending = False
        self._connection: Any = None

    def enqueue(self, job: Job) -> None:
        self._queue.append(job)
        self._wake.set()

    def finish(self) -> None:
        self._ending = True
        self._wake.set()

    async def run(self) -> None:
        try:
            while self._queue or not self._ending:
                await self._wake.wait()
                self._wake.clear()
                queued, self._queue = self._queue, []
                for batch in into_batches(queued):
                    await self._commit_batch(batch)
        finally:
            for job in self._queue:
                job.fail(DatabaseUnavailable("the writer ended"))
                job.answer()
            if self._connection is not None:
                await _close(self._connection)

    async def _commit_batch(self, jobs: Sequence[Job], *, gather_guards: bool = True) -> None:
        """Commit and answer the jobs; divide them when one of them fails."""
        live = [job for job in jobs if job.tx.lane is None or not job.tx.lane.failed]
        for job in jobs:
            if job.tx.lane is not None and job.tx.lane.failed:
                job.error = LaneFailed()
                job.answer()
        if not live:
            return
        parts: list[Sequence[Job]] = []
        half = len(live) // 2
        try:
            await self._commit_whole(live, gather_guards=gather_guards)
        except _GuardMissed as missed:
            if missed.job is None:
                await self._commit_batch(live, gather_guards=False)
                return
            if half:
                parts = [live[: missed.job], [live[missed.job]], live[missed.job + 1 :]]
            else:
                live[0].fail(GuardFailed(missed.guard))
        except DatabaseUnavailable as error:
            for job in live:
                job.fail(type(error)(str(error)))
        except Exception as error:  # noqa: BLE001 - every job must be answered
            if half:
                log.warning(
                    "a batch failed and is run again in parts", extra={"error": _reason(error)}
                )
                parts = [live[:half], live[half:]]
            else:
                live[0].fail(_translated(error, "a job"))
        if parts:
            for part in parts:
                await self._commit_batch(part)
        else:
            self._deliver(live)

    async def _commit_whole(self, jobs: Sequence[Job], *, gather_guards: bool) -> None:
        plan = plan_batch(jobs, self._catalogue, gather_guards=gather_guards)
        attempts = 0
        base = -1
        while base < 0:
            attempts += 1
            try:
                base = await self._attempt(plan)
            except _DEADLOCK:
                if len(jobs) > 1:
                    raise
                if attempts == DEADLOCK_ATTEMPTS:
                    raise DatabaseUnavailable("the rows stay locked") from None
            except (_ConnectionLost, *_UNAVAILABLE) as error:
                # Nothing was committed, and a connection that was lost while idle is no
                # reason to fail anybody.
                if attempts > 1 or not isinstance(error, _ConnectionLost):
                    raise DatabaseUnavailable(str(error) or _reason(error)) from None
        for job in jobs:
            job.error = None
            job.commit = Commit(tuple(range(base + 1, base + 1 + job.tx.position_count)))
            base += job.tx.position_count

    async def _attempt(self, plan: Plan) -> int:
        """Run and commit one transaction; return the position before its first.

        Raises `_ConnectionLost` when it was lost and nothing was committed.
        """
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await _connect(self._url)
        is_committing = False
        transaction_id = ""
        base = 0
        try:
            await connection.execute("BEGIN")
            for group in plan.early:
                await _run_group(connection, group, 0)
            found = await connection.fetchrow(
                _TAKE_POSITIONS if plan.position_count else _TAKE_NONE, plan.position_count
            )
            base, transaction_id = int(found[0]), str(found[1])
            for group in plan.late:
                await _run_group(connection, group, base)
            is_committing = True
            status = await connection.execute("COMMIT")
        except asyncio.CancelledError:
            connection.terminate()
            raise
        except Exception as error:
            if not _is_connection_lost(connection, error):
                await _roll_back(connection)
                raise
            connection.terminate()
            if is_committing and await self._find_whether_committed(transaction_id):
                return base
            raise _ConnectionLost(_reason(error)) from None
        if status != "COMMIT":
            raise DatabaseUnavailable(f"COMMIT was answered with {status}")
        return base

    async def _find_whether_committed(self, transaction_id: str) -> bool:
        """Ask a new connection what became of a transaction whose COMMIT was not answered."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OUTCOME_SECONDS
        while loop.time() < deadline:
            try:
                connection = await _connect(self._url)
                try:
                    status = await connection.fetchval(
                        "SELECT pg_xact_status($1::text::xid8)", transaction_id
                    )
                finally:
                    await _close(connection)
            except _UNAVAILABLE:
                status = "in progress"
            except asyncpg.PostgresError as error:
                raise CommitUnknown(f"no outcome: {_reason(error)}") from None
            if status != "in progress":
                return bool(status == "committed")
            await asyncio.sleep(0.1)
        raise CommitUnknown(f"the connection was lost while transaction {transaction_id} ended")


_TAKE_POSITIONS: Final = (
    "UPDATE yizhan_counter SET value = value + $1 WHERE name = 'position'"
    " RETURNING value - $1, pg_current_xact_id()::text"
)
_TAKE_NONE: Final = "SELECT $1::bigint, pg_current_xact_id()::text"


async def _run_group(connection: Any, group: Group, base: int) -> None:
    entries = group.entries
    sql = _numbered(group.sql)
    if len(entries) == 1:
        (entry,) = entries
        status = await connection.execute(sql, *entry.filled(base))
        if group.is_guard and not status.endswith(" 1"):
            raise _GuardMissed(entry.job, entry.guard)
        return
    rows = [entry.filled(base) for entry in entries]
    if not group.is_guard:
        await connection.executemany(sql, rows)
        return
    try:
        await connection.executemany(_counted(sql), rows)
    except asyncpg.DivisionByZeroError:
        raise _GuardMissed(None, 0) from None


def _counted(sql: str) -> str:
    """Make a guard fail in the server, so that many of them can be sent without waiting."""
    return (
        f"WITH guarded AS ({sql}\nRETURNING 1)"
        " SELECT 1 / CASE WHEN count(*) = 1 THEN 1 ELSE 0 END FROM guarded"
    )


_PLACEHOLDERS: Final = re.compile(r"""'(?:[^']|'')*'|"[^"]*"|--[^\n]*|/\*.*?\*/|\?""", re.DOTALL)


@functools.lru_cache(8192)
def _numbered(sql: str) -> str:
    """Turn `?` into `$1`, `$2` ..., except within literals, quoted names and comments."""
    number = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal number
        if match[0] != "?":
            return match[0]
        number += 1
        return f"${number}"

    return _PLACEHOLDERS.sub(replacement, sql)


async def _connect(url: str, *, read_only: bool = False) -> Any:
    return await asyncpg.connect(
        url,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        statement_cache_size=CACHED_STATEMENTS,
        max_cached_statement_lifetime=0,
        server_settings={
            "application_name": "yizhan",
            "jit": "off",  # it costs more than any of our short statements
            "synchronous_commit": "on",
            "default_transaction_read_only": "on" if read_only else "off",
            "idle_in_transaction_session_timeout": f"{STATEMENT_SECONDS}s",
        },
    )


async def _close(connection: Any) -> None:
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await connection.close(timeout=2)
    if not connection.is_closed():
        connection.terminate()


async def _fetch(connection: Any, sql: str, args: Sequence[Value], limit: int) -> list[Any]:
    if limit:
        record = await connection.fetchrow(sql, *args)
        return [] if record is None else [record]
    found: list[Any] = await connection.fetch(sql, *args)
    return found


async def _migrate(connection: Any, migrations: Sequence[Migration]) -> tuple[str, int]:
    """Bring the schema up to date; return the epoch and the stream position."""
    # Several processes of an installation may start at once.
    await connection.execute("SELECT pg_advisory_lock($1)", _MIGRATION_LOCK)
    async with connection.transaction():
        # Asked first: without `IF NOT EXISTS` and its notices on every start.
        if await connection.fetchval("SELECT to_regclass('yizhan_meta')") is None:
            await connection.execute(sql_for(FOUNDATION, "postgresql"))
    applied = await connection.fetchval("SELECT coalesce(max(version), 0) FROM yizhan_migration")
    where = await connection.fetchval("SELECT current_database()")
    for migration in pending(migrations, applied, where):
        async with connection.transaction():
            await connection.execute(migration.sql_for("postgresql"))
            await connection.execute(
                "INSERT INTO yizhan_migration (version, name) VALUES ($1, $2)",
                migration.version,
                migration.name,
            )
    await connection.execute(
        "INSERT INTO yizhan_meta (key, value) VALUES ('epoch', $1) ON CONFLICT DO NOTHING",
        new_epoch(),
    )
    epoch = await connection.fetchval("SELECT value FROM yizhan_meta WHERE key = 'epoch'")
    position = await connection.fetchval("SELECT value FROM yizhan_counter WHERE name = 'position'")
    return epoch, position


async def _read_catalogue(connection: Any) -> Catalogue:
    """Read foreign keys and triggers, which `postgresql_plan` must know."""
    parents: dict[str, set[str]] = {}
    cascades: dict[str, set[str]] = {}
    for child, parent, on_delete in await connection.fetch(
        "SELECT child.relname, parent.relname, confdeltype::text FROM pg_constraint"
        " JOIN pg_class child ON child.oid = conrelid"
        " JOIN pg_class parent ON parent.oid = confrelid WHERE contype = 'f'"
    ):
        parents.setdefault(child, set()).add(parent)
        if on_delete in {"c", "n", "d"}:
            cascades.setdefault(parent, set()).add(child)
    triggered = await connection.fetch(
        "SELECT relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " WHERE NOT tgisinternal"
    )
    return Catalogue.make(parents, cascades, (name for (name,) in triggered))


def _is_connection_lost(connection: Any, error: Exception) -> bool:
    """Tell whether an error ended the connection, and not only the statement."""
    # A time-out counts: the other end is dead, or as good as.
    return bool(connection.is_closed()) or isinstance(
        error,
        (
            asyncpg.PostgresConnectionError,
            asyncpg.exceptions.OperatorInterventionError,
            asyncpg.InternalClientError,
            OSError,
            TimeoutError,
        ),
    )


async def _roll_back(connection: Any) -> None:
    try:
        await connection.execute("ROLLBACK")
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def _translated(error: BaseException, sql: str) -> Exception:
    if isinstance(error, _UNAVAILABLE):
        return DatabaseUnavailable(_reason(error))
    return StatementRefused(f"{_reason(error)} in {sql}")


def _reason(error: BaseException) -> str:
    """Describe an error without the values that the driver and the server quote in theirs.

    They may be anything that people wrote, and this text reaches the log.
    """
    parts = [type(error).__name__]
    if isinstance(error, asyncpg.PostgresError):
        for name in ("sqlstate", "table_name", "column_name", "constraint_name"):
            parts += filter(None, [getattr(error, name, None)])
    elif isinstance(error, OSError):
        parts += filter(None, [error.strerror])
    return " ".join(parts)
