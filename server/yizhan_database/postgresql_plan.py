"""How a batch of jobs becomes few round trips and a short time under the position lock.

Pure. A batch is a list of operations in submission order. Run literally it would cost a round
trip each, most of them while every other process waits for the lock on the position counter.
The plan moves operations, but only past others that touch none of the same tables, so that
nobody can tell the difference:

- the same statement of many jobs is gathered into one `executemany`, which asyncpg pipelines;
- what carries no position runs before the counter is locked.

Which tables a statement touches is read from its text; what the text does not show (foreign
keys, cascades, triggers) comes from the catalogue. A single job is never reordered, so that
whatever a mistake in here might break is put right when a failing batch is divided.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .transaction import Kind, filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .jobs import Job

LOOK_BACK: Final = 24
"""How many groups an operation may be moved past; bounds the planner's own time."""

_NAME = r"[a-z_]\w*"
_TABLES = re.compile(
    rf"\b(insert\s+into|delete\s+from|update(?!\s+set\b)|from|join|using)\s+"
    rf"({_NAME}(?:\s+(?:as\s+)?{_NAME})?(?:\s*,\s*{_NAME}(?:\s+(?:as\s+)?{_NAME})?)*)"
)
_NOT_TABLES = frozenset({"set", "where", "as", "select", "values", "default"})
_EXISTENCE = "!"
"""`room!` stands for which rows of `room` exist, as against what is in them."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a statement reads and writes: names of tables, and of tables with `!`."""

    reads: frozenset[str]
    writes: frozenset[str]

    def is_apart_from(self, other: Footprint) -> bool:
        """Tell whether the two statements can be exchanged without anybody noticing."""
        return (
            self.writes.isdisjoint(other.reads)
            and self.writes.isdisjoint(other.writes)
            and self.reads.isdisjoint(other.writes)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """What the text of a statement does not show."""

    parents: dict[str, frozenset[str]] = field(default_factory=dict)
    """For each table those that its foreign keys refer to."""
    cascades: dict[str, frozenset[str]] = field(default_factory=dict)
    """For each table those whose rows change when a row of it is deleted."""
    triggered: frozenset[str] = frozenset()
    """Tables with triggers, which may do anything."""

    @classmethod
    def make(
        cls,
        parents: Mapping[str, Iterable[str]],
        cascades: Mapping[str, Iterable[str]],
        triggered: Iterable[str],
    ) -> Catalogue:
        """Make a catalogue from direct relations; a cascade may set off others."""
        fallen: dict[str, frozenset[str]] = {}
        for table in cascades:
            reached: set[str] = set()
            following = [table]
            while following:
                new = set(cascades.get(following.pop(), ())) - reached
                reached |= new
                following += new
            fallen[table] = frozenset(reached)
        return cls(
            {child: frozenset(names) for child, names in parents.items()},
            fallen,
            frozenset(triggered),
        )

    @functools.lru_cache(4096)  # noqa: B019 - one catalogue per database, kept as long as it
    def footprint(self, sql: str) -> Footprint | None:
        """Return what `sql` touches; None when that cannot be known."""
        reads: set[str] = set()
        writes: set[str] = set()
        text = sql.lower()
        if '"' in text:
            return None
        for verb, names in _TABLES.findall(text):
            tables = {name for name in re.findall(_NAME, names) if name not in _NOT_TABLES}
            reads |= tables
            if verb in {"from", "join", "using"}:
                continue
            writes |= tables
            if verb != "update":
                writes |= {table + _EXISTENCE for table in tables}
            if verb.startswith("delete"):
                for table in tables:
                    fallen = self.cascades.get(table, frozenset())
                    writes |= fallen | {child + _EXISTENCE for child in fallen}
        if not writes or not self.triggered.isdisjoint(writes):
            return None
        for table in list(writes):
            reads |= {parent + _EXISTENCE for parent in self.parents.get(table, ())}
        return Footprint(frozenset(reads), frozenset(writes))


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a group's statement."""

    args: Sequence[Any]
    positions: range | None
    """The job's positions, counted from 1 in this batch; None when no `Pos` is among `args`."""
    job: int
    guard: int
    """Of a guard: which of its job's guards it is."""

    def filled(self, base: int) -> Sequence[Any]:
        """Return the arguments, with positions counted on from `base`."""
        if self.positions is None:
            return self.args
        return filled(self.args, range(base + self.positions.start, base + self.positions.stop))


@dataclass(slots=True)
class Group:
    """One statement, with all the runs of it that were gathered here."""

    sql: str
    is_guard: bool
    footprint: Footprint | None
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run before the position counter is locked, how much to add to it, the rest."""

    early: list[Group]
    late: list[Group]
    position_count: int


def plan_batch(jobs: Sequence[Job], catalogue: Catalogue, *, gather_guards: bool = True) -> Plan:
    """Arrange the operations of the jobs.

    Without `gather_guards` each guard is a group, so that a failed one can be named.
    """
    early: list[Group] = []
    late: list[Group] = []
    first = 1
    is_alone = len(jobs) == 1
    for number, job in enumerate(jobs):
        positions = range(first, first + job.tx.position_count)
        guards = 0
        for kind, sql, args, has_pos in job.tx.operations:
            footprint = None if is_alone else catalogue.footprint(sql)
            groups = late if has_pos or not _is_apart(footprint, late) else early
            is_guard = kind is Kind.GUARD
            may_join = not is_guard or (gather_guards and not is_alone and _may_gather(sql))
            group = _find_group(groups, sql, footprint, is_guard=is_guard) if may_join else None
            if group is None:
                group = Group(sql, is_guard, footprint)
                groups.append(group)
            given = positions if has_pos else None
            if kind is Kind.MANY:
                group.entries += [Entry(row, given, number, 0) for row in args]
            else:
                group.entries.append(Entry(args, given, number, guards))
            guards += is_guard
        first = positions.stop
    for group in early:
        if group.is_guard and all(_order(jobs[entry.job]) for entry in group.entries):
            # All processes lock the rows of lanes in one order, or they would deadlock.
            group.entries.sort(key=lambda entry: _order(jobs[entry.job]))
    return Plan(early, late, first - 1)


def _is_apart(footprint: Footprint | None, groups: Sequence[Group]) -> bool:
    if not groups:
        return True
    if footprint is None or len(groups) > LOOK_BACK:
        return False
    return all(
        group.footprint is not None and footprint.is_apart_from(group.footprint) for group in groups
    )


def _find_group(
    groups: Sequence[Group], sql: str, footprint: Footprint | None, *, is_guard: bool
) -> Group | None:
    """Return the group that a statement may join, moving past those after it."""
    for group in reversed(groups[-LOOK_BACK:]):
        if group.sql == sql and group.is_guard is is_guard:
            return group
        if footprint is None or group.footprint is None:
            return None
        if not footprint.is_apart_from(group.footprint):
            return None
    return None


@functools.lru_cache(4096)
def _may_gather(guard: str) -> bool:
    # To be counted by the server a guard is given a RETURNING clause.
    return "returning" not in guard.lower()


def _order(job: Job) -> int:
    return 0 if job.tx.lane is None else job.tx.lane.order
