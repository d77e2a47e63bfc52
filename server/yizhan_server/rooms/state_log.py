"""Places in the state log: at the head of a line a row, elsewhere a child line; and thinning it.

Only an event that becomes a forward extremity continues a line; whatever stands beside the
extremities (soft-failed, behind the head, history) opens a child line. So the place of a room's
only extremity is always the head of its line, and the next event continues it without a look
at the database.

docs/architecture.md, "State log".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from yizhan_database import Database, Transaction
from yizhan_server.storage import purging as stored_purging
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import REMOVED, Point

MAX_LINE_DEPTH = 16
"""A line that would be deeper is anchored anew, so that a seek visits few lines."""


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
    base, changes = merge.base, merge.changes
    if depth >= MAX_LINE_DEPTH:
        base, changes = await _anchored_anew(db, merge)
        depth = 0
    line = await numbers.next("state_line")
    stored_state.open_line(tx, line, room, base, depth + 1)
    if changes:
        stored_state.append_state(tx, Point(line, 1), changes)
    if merge.changes:
        return Point(line, 1)
    return Point(line, 2 if changes else 1)


async def _anchored_anew(db: Database, merge: Merge) -> tuple[Point, dict[int, int]]:
    """Return the same state as a difference to its outermost ancestor."""
    anchor = (await stored_state.ancestry(db, merge.base))[-1]
    changes = {
        key: await stored_state.state_event_at(db, merge.base, key) or REMOVED
        for key in await stored_state.differing_keys(db, merge.base, anchor)
    }
    return anchor, {**changes, **merge.changes}


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
        for first in range(1, upto + 1, ROWS):
            tx = Transaction()
            last = min(first + ROWS - 1, upto)
            stored_purging.thin_state_log(tx, line, first, last, upto)
            await db.commit(tx)
