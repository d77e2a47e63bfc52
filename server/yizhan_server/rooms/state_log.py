"""Appending to the state log: at the head of a line a row, elsewhere a child line; and thinning it.

docs/architecture.md, "State log". Merging two lines needs state resolution and is the business of
receiving events from other servers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from yizhan_database import Database, Transaction
from yizhan_server.storage import purging as stored_purging
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import Point

ROWS = 2000
"""Places of a line that one commit thins."""


async def point_after(
    db: Database, numbers: Numbers, tx: Transaction, room: int, point: Point, tail: Point
) -> Point:
    """Return the place for the change that follows `point`; opens a line where that forks.

    `tail` is the end of what is built of this room, durable or not: it is the head of its
    line, which the database need not know yet.
    """
    if point == tail:
        return Point(point.line, point.seq + 1)
    head, depth = await stored_state.line_head(db, point.line)
    if head == point.seq:
        return Point(point.line, point.seq + 1)
    line = await numbers.next("state_line")
    stored_state.open_line(tx, line, room, point, depth + 1)
    return Point(line, 1)


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
