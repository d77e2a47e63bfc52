"""Submitted jobs on their way through a writer, whichever the backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .database import DatabaseUnavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from .transaction import Commit, Transaction

MAX_BATCH_ROWS: Final = 5000
LARGE_JOB_ROWS: Final = 500
"""A job above this is committed alone, so that small ones do not wait for it any longer."""


class Job:
    """A submitted transaction, whom to tell, and, once it was run, what became of it."""

    __slots__ = ("commit", "error", "future", "tx")

    def __init__(self, tx: Transaction, loop: asyncio.AbstractEventLoop) -> None:
        if tx.submitted:
            raise RuntimeError("a Transaction is submitted once")
        tx.submitted = True
        self.tx = tx
        self.future: asyncio.Future[Commit] = loop.create_future()
        self.commit: Commit | None = None
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Note that the job left no trace, and end its lane."""
        self.commit = None
        self.error = error
        if self.tx.lane is not None:
            self.tx.lane.failed = True

    def answer(self) -> None:
        """Run the callbacks of a durable job, then resolve its future. On the event loop."""
        future = self.future
        commit = self.commit
        if commit is None:
            if not future.done():
                future.set_exception(self.error or DatabaseUnavailable("the writer ended"))
            return
        for call in self.tx.callbacks:
            try:
                call(commit)
            except Exception as error:  # noqa: BLE001 - reported, and the job stays durable
                _report(future.get_loop(), call, error)
        if not future.done():
            future.set_result(commit)


def into_batches(queued: Iterable[Job]) -> list[list[Job]]:
    """Divide jobs, in order, into those that share a transaction."""
    batch: list[Job] = []
    batches = [batch]
    rows = 0
    for job in queued:
        count = job.tx.row_count
        if batch and (count > LARGE_JOB_ROWS or rows + count > MAX_BATCH_ROWS):
            batch = []
            batches.append(batch)
            rows = 0
        batch.append(job)
        # After a large job, whatever comes next begins a batch.
        rows = MAX_BATCH_ROWS if count > LARGE_JOB_ROWS else rows + count
    return batches


def _report(
    loop: asyncio.AbstractEventLoop, call: Callable[[Commit], None], error: Exception
) -> None:
    loop.call_exception_handler(
        {"message": f"after_commit callback {call!r} failed", "exception": error}
    )
