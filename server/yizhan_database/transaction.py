"""The write side of the contract: what a job records, and what its commit gives back.

Pure values: nothing here touches a database. A `Transaction` only remembers operations, so
that it can be built synchronously, without a suspension between the check and the act, and
handed to the one writer that commits many of them with a single fsync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

Value = int | float | str | bytes | None


@dataclass(frozen=True, slots=True)
class Pos:
    """Stands among the arguments for the job's `index`-th stream position.

    The number exists only inside the commit, because the order of commits must be the order
    of positions: a position handed out earlier could become visible after a greater one, and
    a reader would skip it.
    """

    index: int


@dataclass(slots=True, eq=False)
class Lane:
    """Jobs that build on one another: when one of them fails, all later ones fail too.

    One Lane object is one generation (of a room, say). After a failure make a new one and
    rebuild what is still wanted; the failed one stays failed.

    `order`, unless 0, is a number by which all processes lock the rows that guards change, so
    that they do not deadlock: the room's nid, say. Lanes of different `order` must guard
    different rows.
    """

    order: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """A durable job: the stream positions it was given, in the order it asked for them."""

    positions: tuple[int, ...]

    def __getitem__(self, pos: Pos) -> int:
        return self.positions[pos.index]


class Kind(IntEnum):
    """How an operation is run."""

    EXECUTE = 0
    GUARD = 1
    MANY = 2


Operation = tuple[Kind, str, Sequence[Any], bool]
"""(kind, SQL, arguments or list of rows of arguments, whether a `Pos` is among them).

A bare tuple, because one is made for every statement of every write.
"""


@dataclass(slots=True, init=False)
class Transaction:
    """Records one job: operations that are committed together or not at all.

    Operations run in the order in which they were recorded. Record guards first, then rows
    without a position, then rows with one: on PostgreSQL everything before the first `Pos`
    runs outside the lock that orders all writers of the installation.

    With `lane`, the job fails when an earlier job of that lane failed. `on_commit` is the
    first `after_commit` callback.
    """

    lane: Lane | None
    operations: list[Operation]
    row_count: int
    position_count: int
    has_late_guard: bool
    callbacks: list[Callable[[Commit], None]] = field(repr=False)
    submitted: bool

    def __init__(
        self, lane: Lane | None = None, on_commit: Callable[[Commit], None] | None = None
    ) -> None:
        self.lane = lane
        self.operations = []
        self.row_count = 0
        self.position_count = 0
        self.has_late_guard = False
        self.callbacks = [] if on_commit is None else [on_commit]
        self.submitted = False

    def execute(self, sql: str, *args: Value | Pos) -> None:
        """Record one statement with `?` placeholders; how many rows it changes is its affair."""
        self.operations.append((Kind.EXECUTE, sql, args, Pos in map(type, args)))
        self.row_count += 1

    def execute_many(self, sql: str, rows: Iterable[Sequence[Value | Pos]]) -> None:
        """Record one statement to be run once per row, in order."""
        all_rows = rows if isinstance(rows, list) else list(rows)
        if all_rows:
            has_pos = self.position_count > 0 and any(Pos in map(type, row) for row in all_rows)
            self.operations.append((Kind.MANY, sql, all_rows, has_pos))
            self.row_count += len(all_rows)

    def guard(self, sql: str, *args: Value | Pos) -> None:
        """Record a statement that must change exactly one row, else the whole job is undone.

        The job's future then fails with `GuardFailed`, whose `index` counts the job's guards
        from 0.
        """
        if self.operations:
            self.has_late_guard = True
        self.operations.append((Kind.GUARD, sql, args, Pos in map(type, args)))
        self.row_count += 1

    def position(self) -> Pos:
        """Ask for the job's next stream position."""
        pos = Pos(self.position_count)
        self.position_count += 1
        return pos

    def after_commit(self, call: Callable[[Commit], None]) -> None:
        """Have `call` run on the loop once the job is durable, in commit order.

        It runs before the job's future resolves and must not block. It does not run when the
        job fails.
        """
        self.callbacks.append(call)


def filled(args: Sequence[Any], positions: Sequence[int]) -> list[Any]:
    """Return `args` with each `Pos` replaced by its number."""
    return [positions[arg.index] if type(arg) is Pos else arg for arg in args]
