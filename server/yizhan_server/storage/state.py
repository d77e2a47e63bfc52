"""The state log, the current line, and the interned keys of both.

Key k at a point (line, seq) is its row with the greatest seq' <= seq in that line, else what
the parent line says at the place where this line begins. Event 0 means that the key was removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from yizhan_database import Database, Pos, Transaction, in_list

StateKey = tuple[str, str]
"""(event type, state key)"""

REMOVED = 0


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A place in the state log: the state after some event."""

    line: int
    seq: int


def intern_key(tx: Transaction, nid: int, key: StateKey) -> None:
    """Record the number of a state key.

    A guard: it fails when another worker gave the same key another number meanwhile.
    """
    tx.guard(
        "INSERT INTO state_key (nid, type, state_key) VALUES (?, ?, ?)"
        " ON CONFLICT (type, state_key) DO UPDATE SET nid = excluded.nid"
        " WHERE state_key.nid = excluded.nid",
        nid, *key,
    )  # fmt: skip


async def find_key(db: Database, key: StateKey) -> int | None:
    """Return the number of a state key, if any room ever had it."""
    if "\0" in key[1]:
        return None  # no column can hold it; an event can name it as what permits it
    row = await db.row("SELECT nid FROM state_key WHERE type = ? AND state_key = ?", *key)
    return None if row is None else row[0]


async def find_keys(db: Database, keys: Iterable[StateKey]) -> dict[StateKey, int]:
    """Return the numbers of those of many state keys that some room ever had."""
    by_type: dict[str, list[str]] = {}
    for kind, state_key in keys:
        by_type.setdefault(kind, []).append(state_key)
    found: dict[StateKey, int] = {}
    for kind, state_keys in by_type.items():
        for start in range(0, len(state_keys), 500):
            rows = await db.rows(
                *in_list(
                    "SELECT state_key, nid FROM state_key WHERE type = ? AND state_key IN (??)",
                    kind, state_keys[start : start + 500],
                )
            )  # fmt: skip
            found.update(((kind, state_key), nid) for state_key, nid in rows)
    return found


async def keys_by_nid(db: Database, nids: list[int]) -> dict[int, StateKey]:
    """Return these state keys by number."""
    found: dict[int, StateKey] = {}
    for start in range(0, len(nids), 500):
        for nid, kind, state_key in await db.rows(
            *in_list(
                "SELECT nid, type, state_key FROM state_key WHERE nid IN (??)",
                nids[start : start + 500],
            )
        ):
            found[nid] = (kind, state_key)
    return found


async def keys_of_type(db: Database, room: int, kind: str) -> list[int]:
    """Return the numbers of the keys of one type that the room's current line ever held."""
    rows = await db.rows(
        "SELECT DISTINCT c.key FROM state_key AS k JOIN current_state AS c"
        " ON c.room = ? AND c.key = k.nid WHERE k.type = ?",
        room, kind,
    )  # fmt: skip
    return [key for (key,) in rows]


# The state log


def open_line(tx: Transaction, line: int, room: int, parent: Point | None, depth: int) -> None:
    """Begin a line, at the room's first event or where `parent` forks."""
    tx.execute(
        "INSERT INTO state_line (line, room, parent, parent_seq, depth, head)"
        " VALUES (?, ?, ?, ?, ?, 0)",
        line, room, None if parent is None else parent.line,
        None if parent is None else parent.seq, depth,
    )  # fmt: skip


def append_state(tx: Transaction, point: Point, changes: Mapping[int, int]) -> None:
    """Write the changes that lead to `point`, the new head of its line: key number -> event."""
    tx.guard(
        "UPDATE state_line SET head = ? WHERE line = ? AND head = ?",
        point.seq, point.line, point.seq - 1,
    )  # fmt: skip
    tx.execute_many(
        "INSERT INTO state_log (line, key, seq, event) VALUES (?, ?, ?, ?)",
        [(point.line, key, point.seq, event) for key, event in changes.items()],
    )


def lead_line_past(
    tx: Transaction, line: int, ancestor: Point, depth: int, changes: Mapping[int, int]
) -> None:
    """Have a line continue one of its ancestors instead of its parent; it has `depth` then.

    `changes` are what the lines between them have changed, up to where the line begins. They
    take its place 0, where they say what a look-up in its parents has said, and so remain true
    whatever the line continues: two who do this at once do not spoil it.
    """
    tx.execute_many(
        "INSERT INTO state_log (line, key, seq, event) VALUES (?, ?, 0, ?)"
        " ON CONFLICT (line, key, seq) DO NOTHING",
        [(line, key, event) for key, event in changes.items()],
    )
    tx.execute(
        "UPDATE state_line SET parent = ?, parent_seq = ?, depth = ? WHERE line = ?",
        ancestor.line, ancestor.seq, depth, line,
    )  # fmt: skip


async def count_rows(db: Database, place: Point, limit: int) -> int:
    """Return how many rows the line of `place` alone has up to it; of more, `limit`."""
    row = await db.row(
        "SELECT count(*) FROM"
        " (SELECT 1 FROM state_log WHERE line = ? AND seq <= ? LIMIT ?) AS counted",
        place.line, place.seq, limit,
    )  # fmt: skip
    assert row is not None, "count always answers"
    return int(row[0])


async def line_head(db: Database, line: int) -> tuple[int, int]:
    """Return (head, depth) of a line."""
    row = await db.row("SELECT head, depth FROM state_line WHERE line = ?", line)
    assert row is not None, "every line that a point names exists"
    return row[0], row[1]


async def ancestry(db: Database, point: Point) -> list[Point]:
    """Return `point` and the places where its line and each ancestor begin, innermost first."""
    # Before their rows are read: a line that is led past its parents meanwhile has what they say.
    row = await db.row("SELECT parent, parent_seq FROM state_line WHERE line = ?", point.line)
    assert row is not None, "every line that a point names exists"
    if row[0] is None:
        return [point]  # most rooms never fork
    further = await db.rows(
        "WITH RECURSIVE place (step, parent, parent_seq) AS"
        " (SELECT 1, parent, parent_seq FROM state_line WHERE line = ? UNION ALL"
        " SELECT p.step + 1, l.parent, l.parent_seq"
        " FROM place AS p JOIN state_line AS l ON l.line = p.parent)"
        " SELECT parent, parent_seq FROM place WHERE parent IS NOT NULL ORDER BY step",
        row[0],
    )
    return [point, Point(row[0], row[1]), *(Point(line, seq) for line, seq in further)]


async def state_event_at(db: Database, point: Point, key: int) -> int | None:
    """Return the event of a key in the state at `point`."""
    # The line and its parent in one question: between two, the line could be led past its parent.
    row = await db.row(
        "SELECT s.parent, s.parent_seq, (SELECT l.event FROM state_log AS l WHERE l.line = s.line"
        " AND l.key = ? AND l.seq <= ? ORDER BY l.seq DESC LIMIT 1)"
        " FROM state_line AS s WHERE s.line = ?",
        key, point.seq, point.line,
    )  # fmt: skip
    assert row is not None, "every line that a point names exists"
    if row[2] is not None or row[0] is None:
        return row[2] or None
    # All further lines at once: each question more would cost PostgreSQL a journey.
    rows = await db.rows(
        "WITH RECURSIVE place (step, line, seq) AS"
        " (SELECT 1, CAST(? AS BIGINT), CAST(? AS BIGINT) UNION ALL"
        " SELECT p.step + 1, s.parent, s.parent_seq FROM place AS p"
        " JOIN state_line AS s ON s.line = p.line WHERE s.parent IS NOT NULL)"
        " SELECT (SELECT l.event FROM state_log AS l WHERE l.line = p.line AND l.key = ?"
        " AND l.seq <= p.seq ORDER BY l.seq DESC LIMIT 1) FROM place AS p ORDER BY p.step",
        row[0], row[1], key,
    )  # fmt: skip
    return next((event for (event,) in rows if event is not None), None) or None


async def replaced_events(db: Database, nids: list[int]) -> dict[int, int]:
    """Return which event each of these state events replaced; absent where there was none.

    A few hundred at a time. What was before is looked up in the event's own line, and only where
    that says nothing and is a fork's, in the lines before it.
    """
    rows = await db.rows(
        *in_list(
            "SELECT e.nid, e.line, e.seq, k.nid, s.parent, (SELECT l.event FROM state_log AS l"
            " WHERE l.line = e.line AND l.key = k.nid AND l.seq < e.seq"
            " ORDER BY l.seq DESC LIMIT 1)"
            " FROM event AS e"
            " JOIN state_key AS k ON k.type = e.type AND k.state_key = e.state_key"
            " JOIN state_line AS s ON s.line = e.line WHERE e.nid IN (??)",
            nids,
        )
    )
    replaced: dict[int, int] = {}
    for nid, line, seq, key, parent, before in rows:
        event = before
        if event is None and parent is not None and seq > 0:
            event = await state_event_at(db, Point(line, seq - 1), key)
        if event:
            replaced[nid] = event
    return replaced


async def full_state_at(db: Database, point: Point) -> dict[int, int]:
    """Return the whole state at `point`: key number -> event."""
    state: dict[int, int] = {}
    for place in reversed(await ancestry(db, point)):
        rows = await db.rows(
            "SELECT l.key, l.event FROM state_log AS l JOIN"
            " (SELECT key, max(seq) AS seq FROM state_log WHERE line = ? AND seq <= ? GROUP BY key)"
            " AS newest ON l.line = ? AND l.key = newest.key AND l.seq = newest.seq",
            place.line, place.seq, place.line,
        )  # fmt: skip
        state.update((key, event) for key, event in rows)
    return {key: event for key, event in state.items() if event != REMOVED}


async def state_page(db: Database, place: Point, after: int, limit: int) -> list[tuple[int, int]]:
    """Return (key, event) of what one line alone says at `place`, for the next keys in order.

    The state at a point is what the pages of its `ancestry` say, the innermost prevailing.
    """
    rows = await db.rows(
        "SELECT l.key, l.event FROM state_log AS l JOIN"
        " (SELECT key, max(seq) AS seq FROM state_log WHERE line = ? AND key > ? AND seq <= ?"
        " GROUP BY key ORDER BY key LIMIT ?)"
        " AS newest ON l.line = ? AND l.key = newest.key AND l.seq = newest.seq ORDER BY l.key",
        place.line, after, place.seq, limit, place.line,
    )  # fmt: skip
    return [(key, event) for key, event in rows]


async def state_events_at(db: Database, point: Point, keys: Collection[int]) -> dict[int, int]:
    """Return the events of a few hundred keys in the state at `point`: key number -> event."""
    found: dict[int, int] = {}
    missing = set(keys)
    for place in await ancestry(db, point):
        if not missing:
            break
        found |= await _events_of_line(db, place, missing)
        missing -= found.keys()
    return {key: event for key, event in found.items() if event != REMOVED}


async def _events_of_line(db: Database, place: Point, keys: Collection[int]) -> dict[int, int]:
    # A seek for each key. As a join SQLite would read the whole line.
    rows = await db.rows(
        *in_list(
            "SELECT k.nid, (SELECT l.event FROM state_log AS l WHERE l.line = ? AND l.key = k.nid"
            " AND l.seq <= ? ORDER BY l.seq DESC LIMIT 1) FROM state_key AS k WHERE k.nid IN (??)",
            place.line, place.seq, keys,
        )
    )  # fmt: skip
    return {key: event for key, event in rows if event is not None}


async def differences(db: Database, one: Point, other: Point) -> dict[int, int]:
    """Return the keys whose event differs between two points of one room, with that at `one`.

    0 where it has none. Reads only rows written since the points' common ancestor.
    """
    touched = list(await touched_keys(db, one, other))
    found: dict[int, int] = {}
    for start in range(0, len(touched), 250):
        keys = touched[start : start + 250]
        here = await state_events_at(db, one, keys)
        there = await state_events_at(db, other, keys)
        found |= {key: here.get(key, REMOVED) for key in keys if here.get(key) != there.get(key)}
    return found


async def touched_keys(db: Database, one: Point, other: Point) -> set[int]:
    """Return the keys that were written since the common ancestor of two points of one room."""
    mine = {place.line: place.seq for place in await ancestry(db, one)}
    theirs = {place.line: place.seq for place in await ancestry(db, other)}
    common = next(line for line in mine if line in theirs)
    touched: set[int] = set()
    for side in (mine, theirs):
        for line, seq in side.items():
            if line == common:
                break
            touched |= {
                key
                for (key,) in await db.rows(
                    "SELECT key FROM state_log WHERE line = ? AND seq <= ?", line, seq
                )
            }
    low, high = sorted((mine[common], theirs[common]))
    touched |= {
        key
        for (key,) in await db.rows(
            "SELECT key FROM state_log WHERE line = ? AND seq > ? AND seq <= ?", common, low, high
        )
    }
    return touched


# The current line


def append_current_state(tx: Transaction, room: int, pos: Pos, changes: Mapping[int, int]) -> None:
    """Record that the room's current state changed at `pos`: key number -> event."""
    tx.execute_many(
        "INSERT INTO current_state (room, key, pos, event) VALUES (?, ?, ?, ?)",
        [(room, key, pos, event) for key, event in changes.items()],
    )


def begin_current_state(tx: Transaction, room: int, pos: Pos, point: Point, but: int) -> None:
    """Make what the state log has at exactly `point`, all but one key, the room's current state."""
    tx.execute(
        "INSERT INTO current_state (room, key, pos, event)"
        " SELECT ?, l.key, ?, l.event FROM state_log AS l"
        " WHERE l.line = ? AND l.seq = ? AND l.key <> ?",
        room, pos, point.line, point.seq, but,
    )  # fmt: skip


async def current_state_event(db: Database, room: int, key: int, pos: int) -> int | None:
    """Return the event of a key in the room's current state as of `pos`."""
    found = await current_state_change(db, room, key, pos)
    return None if found is None else found[0]


async def current_state_change(
    db: Database, room: int, key: int, pos: int
) -> tuple[int, int] | None:
    """Return (event, pos) of the last change of a key in the room's current state up to `pos`.

    None where the key is not in that state.
    """
    row = await db.row(
        "SELECT event, pos FROM current_state WHERE room = ? AND key = ? AND pos <= ?"
        " ORDER BY pos DESC LIMIT 1",
        room, key, pos,
    )  # fmt: skip
    return (row[0], row[1]) if row is not None and row[0] else None


async def current_state_of_rooms(db: Database, user_id: str, key: int, pos: int) -> dict[int, int]:
    """Return the event of one key in each of a user's rooms as of `pos`: room -> event.

    Of a room that the user has left, as of then. Rooms without such an event are absent.
    """
    rows = await db.rows(
        "SELECT m.room, (SELECT c.event FROM current_state AS c WHERE c.room = m.room AND c.key = ?"
        " AND c.pos <= ? AND (m.membership NOT IN ('leave', 'ban') OR c.pos <= m.pos)"
        " ORDER BY c.pos DESC LIMIT 1)"
        " FROM membership AS m WHERE m.user_id = ? AND m.forgotten = 0",
        key, pos, user_id,
    )  # fmt: skip
    return {room: event for room, event in rows if event}


async def current_state_but_members(db: Database, room: int, pos: int) -> dict[int, int]:
    """Return the room's current state as of `pos` without member events: key number -> event."""
    rows = await db.rows(
        "SELECT c.key, c.event FROM current_state AS c JOIN"
        " (SELECT s.key AS key, max(s.pos) AS pos FROM current_state AS s"
        " JOIN state_key AS k ON k.nid = s.key"
        " WHERE s.room = ? AND s.pos <= ? AND k.type <> 'm.room.member' GROUP BY s.key)"
        " AS newest ON c.room = ? AND c.key = newest.key AND c.pos = newest.pos",
        room, pos, room,
    )  # fmt: skip
    return {key: event for key, event in rows if event != REMOVED}


async def current_state_of_type(db: Database, room: int, kind: str) -> list[int]:
    """Return the events of one type in the room's current state, of every state key."""
    rows = await db.rows(
        "SELECT c.event FROM current_state AS c JOIN"
        " (SELECT s.key AS key, max(s.pos) AS pos FROM state_key AS k"
        " JOIN current_state AS s ON s.room = ? AND s.key = k.nid WHERE k.type = ? GROUP BY s.key)"
        " AS newest ON c.room = ? AND c.key = newest.key AND c.pos = newest.pos",
        room, kind, room,
    )  # fmt: skip
    return [event for (event,) in rows if event != REMOVED]


async def current_state(db: Database, room: int, pos: int) -> dict[int, int]:
    """Return the room's whole current state as of `pos`: key number -> event."""
    rows = await db.rows(
        "SELECT c.key, c.event FROM current_state AS c JOIN"
        " (SELECT key, max(pos) AS pos FROM current_state WHERE room = ? AND pos <= ? GROUP BY key)"
        " AS newest ON c.room = ? AND c.key = newest.key AND c.pos = newest.pos",
        room, pos, room,
    )  # fmt: skip
    return {key: event for key, event in rows if event != REMOVED}


async def current_state_changes(db: Database, room: int, after: int, upto: int) -> dict[int, int]:
    """Return the latest change of each key of the current state in (after, upto]; 0 = removed."""
    rows = await db.rows(
        "SELECT key, event FROM current_state WHERE room = ? AND pos > ? AND pos <= ? ORDER BY pos",
        room, after, upto,
    )  # fmt: skip
    return dict(rows)


async def current_state_history(db: Database, room: int, key: int) -> list[tuple[int, int]]:
    """Return (pos, event) of every change of one key of the current state, ascending."""
    rows = await db.rows(
        "SELECT pos, event FROM current_state WHERE room = ? AND key = ? ORDER BY pos", room, key
    )
    return [(pos, event) for pos, event in rows]
