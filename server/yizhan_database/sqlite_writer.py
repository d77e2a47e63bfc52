"""The writer thread of the SQLite backend: many jobs, one transaction, one fsync.

While a COMMIT waits for the disk, jobs queue up; the next transaction takes them all. A job
whose guard fails is undone alone. An unexpected error undoes the whole batch, which is then
run again job by job, so that only the culprit fails.

The writer needs Python's global lock between any two statements. A program that computes a
lot on its event loop should set `sys.setswitchinterval(0.001)`: beside a loop that never
rested, the slowest of 300 commits took 31 ms with it and 260-1,600 ms without.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import apsw

from .database import DatabaseUnavailable, GuardFailed, LaneFailed, StatementRefused
from .jobs import Job, into_batches
from .transaction import Commit, Kind, Lane, Transaction, filled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

UNAVAILABLE = (
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.CorruptError,
    apsw.NotADBError,
)
"""What the machine does to us, as against what a wrong statement does."""


class Reservation(Transaction):
    """Takes `count` numbers from a counter; after the commit, `end` is one past the last."""

    __slots__ = ("count", "counter", "end")

    def __init__(self, counter: str, count: int) -> None:
        super().__init__()
        self.counter = counter
        self.count = count
        self.end = 0


class Writer:
    """Owns the writing connection and the only thread that uses it.

    `hand_over` is called on that thread with the jobs of a finished batch, in order;
    `notice_wal` with the length of the log in bytes.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        position: int,
        hand_over: Callable[[Sequence[Job]], None],
        notice_wal: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._position = position
        self._hand_over = hand_over
        self._notice_wal = notice_wal
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        (page_size,) = next(connection.execute("PRAGMA page_size"))
        self._frame_bytes = int(page_size) + 24
        connection.set_wal_hook(self._note_wal)
        self._thread = threading.Thread(target=self._run, name="yizhan-write", daemon=True)
        self._thread.start()

    def enqueue(self, job: Job) -> None:
        """Give a job to the writer. Called on the event loop only."""
        self._queue.put(job)

    def finish(self) -> None:
        """Commit everything queued, then end. Blocks; not to be called on the event loop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        queue = self._queue
        ending = False
        while not ending:
            queued = [queue.get()]
            queued += [queue.get_nowait() for _ in range(queue.qsize())]
            if queued[-1] is None:
                ending = True
            for batch in into_batches(job for job in queued if job is not None):
                self._commit_batch(batch)
        self._cursor.close()
        self._connection.close()

    def _commit_batch(self, jobs: Sequence[Job]) -> None:
        try:
            self._attempt(jobs)
        except Exception as error:  # every job must be answered
            self._undo()
            if len(jobs) > 1:
                log.warning("a batch failed and is run again job by job", exc_info=error)
                for job in jobs:
                    self._commit_batch([job])
                return
            for job in jobs:
                job.fail(_translated(error))
        self._hand_over(jobs)

    def _attempt(self, jobs: Sequence[Job]) -> None:
        """Commit the jobs, less those whose guards fail, in one transaction."""
        execute = self._cursor.execute
        execute("BEGIN IMMEDIATE")
        position = self._position
        failed_lanes: list[Lane] = []
        for job in jobs:
            tx = job.tx
            lane = tx.lane
            if lane is not None and (lane.failed or lane in failed_lanes):
                job.error = LaneFailed()
                continue
            positions = tuple(range(position + 1, position + 1 + tx.position_count))
            failed_guard = self._run_job(tx, positions)
            if failed_guard is None:
                position += tx.position_count
                job.commit = Commit(positions)
            else:
                job.commit = None
                job.error = GuardFailed(failed_guard)
                if lane is not None:
                    failed_lanes.append(lane)
        if position != self._position:
            execute("UPDATE yizhan_counter SET value = ? WHERE name = 'position'", (position,))
        execute("COMMIT")
        self._position = position
        for lane in failed_lanes:
            lane.failed = True

    def _run_job(self, tx: Transaction, positions: Sequence[int]) -> int | None:
        """Run one job's operations; return the index of a failed guard after undoing the job."""
        cursor = self._cursor
        execute = cursor.execute
        changes = self._connection.changes
        guards = 0
        # Most jobs have one guard and record it first: when it changes nothing there is
        # nothing to undo, and they do without a savepoint.
        if tx.has_late_guard:
            execute("SAVEPOINT job")
        for kind, sql, args, has_pos in tx.operations:
            if kind is Kind.MANY:
                rows = [filled(row, positions) for row in args] if has_pos else args
                cursor.executemany(sql, rows)
                continue
            execute(sql, filled(args, positions) if has_pos else args)
            if kind is Kind.GUARD:
                if changes() != 1:
                    if tx.has_late_guard:
                        execute("ROLLBACK TO job")
                        execute("RELEASE job")
                    elif changes():
                        raise GuardFailed(guards)  # it changed several rows: undo them
                    return guards
                guards += 1
        if tx.has_late_guard:
            execute("RELEASE job")
        if isinstance(tx, Reservation):
            self._reserve(tx)
        return None

    def _reserve(self, tx: Reservation) -> None:
        ((last,),) = self._cursor.execute(
            "INSERT INTO yizhan_counter (name, value) VALUES (?, ?) ON CONFLICT (name)"
            " DO UPDATE SET value = value + excluded.value RETURNING value",
            (tx.counter, tx.count),
        ).fetchall()
        assert isinstance(last, int)
        tx.end = last + 1

    def _undo(self) -> None:
        """Roll back, unless SQLite already did (it does by itself when the disk is full)."""
        try:
            if not self._connection.getautocommit():
                self._cursor.execute("ROLLBACK")
        except apsw.Error:
            log.exception("a transaction could not be rolled back")

    def _note_wal(self, _connection: Any, _name: str, pages: int) -> int:
        self._notice_wal(pages * self._frame_bytes)
        return apsw.SQLITE_OK


def _translated(error: Exception) -> Exception:
    if isinstance(error, GuardFailed):
        return error
    made: Exception
    if isinstance(error, UNAVAILABLE):
        made = DatabaseUnavailable(str(error))
    else:
        made = StatementRefused(str(error))
    made.__cause__ = error
    return made
