"""Appending to the state log: at the head of a line a row, elsewhere a child line.

docs/architecture.md, "State log". Merging two lines needs state resolution and is the business of
receiving events from other servers.
"""

from __future__ import annotations

from yizhan_database import Database, Transaction
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import Point


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
