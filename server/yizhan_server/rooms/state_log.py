"""Places in the state log: at the head of a line a row, elsewhere a child line; and thinning it.

Only an event that becomes a forward extremity continues a line; whatever stands beside the
extremities (soft-failed, behind the head, history) opens a child line. So the place of a room's
only extremity is mostly the head of its line, and stays so while one event follows the other:
`Room.line_head` spares a look at the database. After branches it is looked up, for they may have
been resolved to a place that others have continued.

Forks upon forks would make a look-up visit line after line. Before a line becomes too deep, one
of its ancestors is led past some of those before it: docs/adr/0015-lines-of-state-are-shortened.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from yizhan_database import Database, Transaction
from yizhan_server.storage import purging as stored_purging
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import Point

MAX_LINE_DEPTH = 16
"""Before a line becomes deeper its ancestry is shortened, so that a look-up visits few lines."""

MANY_ROWS = 1000
"""Lines with more rows are not told apart by their size."""


@dataclass(frozen=True, slots=True)
class Merge:
    """The state of several events together: that at `base`, but for `changes`."""

    base: Point
    changes: Mapping[int, int] = field(default_factory=dict)
    """State key number -> event number; 0 where the state has nothing."""


ROWS = 2000
"""Places of a line that one commit thins."""


async def point_after(
    db: Database,
    numbers: Numbers,
    tx: Transaction,
    room: int,
    point: Point,
    *,
    is_line_head: bool | None,
) -> Point:
    """Return the place for the change that follows `point`; opens a line where that forks.

    `is_line_head` is what is known without asking: True where `point` ends what is built of its
    line, durable or not; False to open a line in any case; None to look it up.
    """
    if is_line_head:
        return Point(point.line, point.seq + 1)
    head, depth = await stored_state.line_head(db, point.line)
    if is_line_head is None and head == point.seq:
        return Point(point.line, point.seq + 1)
    return await _open(db, numbers, tx, room, Merge(point), depth)


async def point_of_merge(
    db: Database, numbers: Numbers, tx: Transaction, room: int, merge: Merge
) -> Point:
    """Return the place of a merged state; its own line unless it is that of `base`."""
    if not merge.changes:
        return merge.base
    _, depth = await stored_state.line_head(db, merge.base.line)
    return await _open(db, numbers, tx, room, merge, depth)


async def _open(
    db: Database, numbers: Numbers, tx: Transaction, room: int, merge: Merge, depth: int
) -> Point:
    """Open a line below `merge.base`, whose own line has `depth`; return its first free place.

    With changes they take the first place themselves.
    """
    if depth >= MAX_LINE_DEPTH:
        depth = await _shorten(db, tx, merge.base)
    line = await numbers.next("state_line")
    stored_state.open_line(tx, line, room, merge.base, depth + 1)
    if merge.changes:
        stored_state.append_state(tx, Point(line, 1), merge.changes)
    return Point(line, 1)


async def _shorten(db: Database, tx: Transaction, point: Point) -> int:
    """Have the ancestry of `point`, if it is too deep, leave out some lines; return its depth.

    One of the lines in it continues one further back, once what those between them changed has
    been written into it. Whatever else descends from it has the shorter way too.
    """
    places = await stored_state.ancestry(db, point)
    depth = len(places) - 1
    if depth < MAX_LINE_DEPTH:
        return depth  # since its depth was noted, another fork has shortened the way
    rows = [await stored_state.count_rows(db, place, MANY_ROWS) for place in places]
    at, to = _cheapest_leap(rows)
    changes = await stored_state.differences(db, places[at + 1], places[to])
    stored_state.lead_line_past(tx, places[at].line, places[to], depth - to + 1, changes)
    return depth - (to - at - 1)


def _cheapest_leap(rows: Sequence[int]) -> tuple[int, int]:
    """Return which line of an ancestry, innermost first, is to continue which further one.

    The fewest rows to be copied for the square of the lines that are left out. Without the square
    the same rows would be copied again and again, each time by one line.
    """
    return min(
        ((at, to) for at in range(len(rows) - 2) for to in range(at + 2, len(rows))),
        key=lambda leap: (sum(rows[leap[0] + 1 : leap[1]]) + 1) / (leap[1] - leap[0] - 1) ** 2,
    )


async def thin_state_log(db: Database, room: int, points: AsyncIterator[Point]) -> None:
    """Drop the rows that the state at none of `points`, nor just before it, is made of.

    `points` are those of all events that the room still has, so that whatever is written
    meanwhile builds on one of them. In each line everything below the lowest place that is still
    looked up goes, but for the newest row of each key; lines that fork off look theirs up too.
    """
    lowest: dict[int, int] = {}

    def note(line: int, seq: int) -> None:
        lowest[line] = min(seq, lowest.get(line, seq))

    async for point in points:
        # What a state event replaced stands just before it.
        note(point.line, point.seq - 1)
    for _, parent, seq in await stored_purging.lines_of_room(db, room):
        if parent is not None and seq is not None:
            note(parent, seq)
    for line, upto in lowest.items():
        for first in range(0, upto + 1, ROWS):
            tx = Transaction()
            last = min(first + ROWS - 1, upto)
            stored_purging.thin_state_log(tx, line, first, last, upto)
            await db.commit(tx)
