"""SQLite's writer without its thread: a batch is committed on the loop, some time after.

Several jobs still meet in one batch, and whoever waits for a commit still waits.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from typing_extensions import override

from yizhan_database import Database, DatabaseUnavailable, sqlite, sqlite_writer
from yizhan_database.jobs import Job, into_batches

SLOWEST_S = 0.02


class InlineWriter(sqlite_writer.Writer):
    """Commits what was queued up to SLOWEST_S ago."""

    random = Random(0)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting: list[Job] = []
        self._due: asyncio.TimerHandle | None = None
        self._is_frozen = False

    def freeze(self) -> None:
        """Commit nothing any more, as when the process is killed."""
        self._is_frozen = True
        self._waiting.clear()

    @override
    def enqueue(self, job: Job) -> None:
        """See Writer."""
        if self._is_frozen:
            _refuse(job)
            return
        self._waiting.append(job)
        if self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(self.random.uniform(0, SLOWEST_S), self._commit_waiting)

    @override
    def finish(self) -> None:
        """See Writer."""
        super().finish()
        if self._due is not None:
            self._due.cancel()
        self._commit_waiting()
        self._cursor.close()
        self._connection.close()

    def _commit_waiting(self) -> None:
        self._due = None
        jobs, self._waiting = self._waiting, []
        for batch in into_batches(jobs):
            self._commit_batch(batch)

    @override
    def _run(self) -> None:
        """Leave everything to the loop."""


def freeze(db: Database) -> None:
    """Have nothing become durable any more but what is just being committed."""
    writer: Any = db._writer  # type: ignore[attr-defined] # whichever it is
    if isinstance(writer, InlineWriter):
        writer.freeze()
    else:
        writer._queue.clear()
        writer.enqueue = _refuse


def _refuse(job: Job) -> None:
    job.fail(DatabaseUnavailable("the process was killed"))
    job.answer()


def install(random: Random) -> None:
    """Have every database that is opened from now on use it. For a process of its own."""
    InlineWriter.random = random
    setattr(sqlite, "Writer", InlineWriter)  # noqa: B010 - not what it is for others
