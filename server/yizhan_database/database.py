"""What every database offers to the programs, and how it fails.

Two backends keep this contract: SQLite for one machine, PostgreSQL for many. The programs
write one subset of SQL with `?` placeholders and never learn which one they are on, except
through `dialect` where full-text search differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from .transaction import Commit, Transaction, Value

Row = tuple[Any, ...]

MAX_PAGE_ROWS = 1000
MAX_PAGE_SECONDS = 0.05
"""A `scan` ends its read transaction after so many rows or seconds, whichever comes first.

With one cursor left open SQLite's log cannot be reused: it grew from 5 MB to 1 GB in 5 s.
"""


class GuardFailed(Exception):
    """A guard of the job did not change exactly one row: the job left no trace.

    Expected where two writers race: reload what the guard compared, rebuild, try again.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"guard {index} did not change exactly one row")
        self.index = index


class LaneFailed(GuardFailed):
    """An earlier job of the same lane failed, so this one was not run. `index` is -1."""

    def __init__(self) -> None:
        Exception.__init__(self, "an earlier job of the lane failed")
        self.index = -1


class DatabaseUnavailable(Exception):
    """Disk full, read-only or failing, or the connection is lost: nothing was acknowledged."""


class CommitUnknown(DatabaseUnavailable):
    """The connection was lost during COMMIT and the outcome could not be learnt in time.

    The job may be durable. Look its identifiers up before answering or trying again.
    """


class StatementRefused(Exception):
    """The database refused a statement (syntax, constraint, type): a bug of the caller.

    The job of the statement left no trace; other jobs are unaffected. The message names the
    statement or the violated rule, never the values, so that it may be logged.
    """


class OpeningRefused(Exception):
    """The database must not be opened so. The message is a sentence for the administrator."""


class Database(Protocol):
    """One database of one program. Everything is called on the event loop that opened it."""

    dialect: Literal["sqlite", "postgresql"]
    epoch: str
    """Random; made with the database and again for every restored copy of it."""

    @property
    def position(self) -> int:
        """The greatest stream position whose `after_commit` callbacks have begun to run here.

        Everything up to it is durable and readable. Other processes may be further:
        see `refresh_position`.
        """

    async def refresh_position(self) -> int:
        """Read the greatest committed position of all processes, and make it `position`."""

    async def row(self, sql: str, *args: Value) -> Row | None:
        """Return the first row of a bounded, indexed read, or None.

        On SQLite it runs inline and does not really suspend; never rely on that.
        """

    async def rows(self, sql: str, *args: Value) -> list[Row]:
        """Return all rows of a bounded, indexed read. For unbounded ones there is `scan`."""

    def scan(self, sql: str, *args: Value, after: Value) -> AsyncIterator[Row]:
        """Yield the rows of a read of any length, off the event loop, page by page.

        `sql` ends with two more placeholders, `... AND key > ? ORDER BY key LIMIT ?` (or `<`
        and `DESC`), where `key` is column 0 and unique; `after` is where to begin, excluded.
        Each page sees the database as it is then: a row changed meanwhile may show either way.
        """

    def submit(self, tx: Transaction) -> asyncio.Future[Commit]:
        """Enqueue a job. Jobs commit in the order of their submission.

        The future resolves when the job is durable and its callbacks have run. It fails with
        `GuardFailed`, `DatabaseUnavailable` or `StatementRefused`, and then the job left no
        trace. Cancelling the future does not withdraw the job.
        """

    async def commit(self, tx: Transaction) -> Commit:
        """Submit a job and wait until it is durable. Cancelling does not withdraw the job."""

    async def reserve(self, counter: str, count: int) -> range:
        """Return `count` numbers, from 1 up, that `counter` gave and will give to nobody else.

        Durable before it returns. Unused numbers are lost: gaps are allowed.
        """

    async def close(self) -> None:
        """Finish the jobs already submitted, then release everything. May be called twice."""
