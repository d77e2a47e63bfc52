"""Removing events: those of a room up to a point, or everything of a room.

Each statement removes a bounded number of rows, so that no other writer waits for long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass

from yizhan_database import Database, Row, Transaction, in_list
from yizhan_server.storage import search
from yizhan_server.storage.events import REJECTED, SOFT_FAILED
from yizhan_server.storage.state import Point

BEFORE_ALL = -(2**62)
"""Smaller than any position."""


@dataclass(frozen=True, slots=True)
class OldEvent:
    """An event that may go."""

    nid: int
    event_id: str
    pos: int
    depth: int
    type: str
    sender: str
    is_state: bool


def _old_event(row: Row) -> OldEvent:
    nid, event_id, pos, depth, kind, sender, is_state = row
    return OldEvent(nid, event_id, pos, depth, kind, sender, bool(is_state))


# region the history up to a point


async def events_below(
    db: Database, room: int, depth: int, place: tuple[int, int], limit: int
) -> list[OldEvent]:
    """Return a page of the room's events of less than `depth`, beyond `place` (depth, pos)."""
    rows = await db.rows(
        "SELECT nid, event_id, pos, depth, type, sender, state_key IS NOT NULL FROM event"
        " WHERE room = ? AND depth < ? AND (depth, pos) > (?, ?) AND pos IS NOT NULL"
        " ORDER BY depth, pos LIMIT ?",
        room, depth, *place, limit,
    )  # fmt: skip
    return [_old_event(row) for row in rows]


async def redactions_of_state(db: Database, redactions: Sequence[int]) -> set[int]:
    """Return those of these redacting events whose target is a state event."""
    rows = await db.rows(
        *in_list(
            "SELECT r.event FROM redaction AS r JOIN event AS t ON t.event_id = r.target"
            " WHERE r.applied IN (0, 1, 2) AND r.event IN (??) AND t.state_key IS NOT NULL",
            list(redactions),
        )
    )
    return {event for (event,) in rows}


def hide_events(tx: Transaction, nids: Sequence[int]) -> None:
    """Make events outliers: they are kept for what refers to them and shown in no history."""
    tx.execute_many(
        "UPDATE event SET pos = NULL, line = NULL, seq = NULL WHERE nid = ?",
        [(nid,) for nid in nids],
    )


def delete_events(tx: Transaction, db: Database, room: int, events: Sequence[OldEvent]) -> None:
    """Remove events, and what is kept beside them."""
    if not events:
        return
    event_ids = [event.event_id for event in events]
    nids = [event.nid for event in events]
    tx.execute(*in_list("DELETE FROM redaction WHERE target IN (??)", event_ids))
    tx.execute(*in_list("DELETE FROM redaction WHERE applied IN (0, 1, 2) AND event IN (??)", nids))
    tx.execute(*in_list("DELETE FROM txn WHERE event_id IN (??)", event_ids))
    for table in ("self_destruction", "event_auth", "auth_chain"):
        tx.execute(*in_list(f"DELETE FROM {table} WHERE event IN (??)", nids))
    # A chain's number is the nid of its first event.
    tx.execute(*in_list("DELETE FROM auth_chain_link WHERE chain IN (??)", nids))
    for nid in nids:
        search.replace_document(tx, db, nid, room, [])
    tx.execute(*in_list("DELETE FROM event WHERE nid IN (??)", nids))


def delete_judgements(tx: Transaction, room: int, positions: Sequence[int]) -> None:
    """Remove how people's own push rules judged the events at these positions."""
    tx.execute(
        *in_list("DELETE FROM push_exception WHERE room = ? AND pos IN (??)", room, positions)
    )


async def scan_remaining(db: Database, room: int) -> AsyncIterator[tuple[int, int, bytes]]:
    """Yield (pos, depth, rest) of all that is left of a room's history."""
    sql = "SELECT pos, depth, rest FROM event WHERE room = ? AND pos > ? ORDER BY pos LIMIT ?"
    async for pos, depth, rest in db.scan(sql, room, after=BEFORE_ALL):
        yield pos, depth, rest


async def settled_events(db: Database, room: int, event_ids: Collection[str]) -> set[str]:
    """Return those of these events that are part of the history, or have been refused for good."""
    rows = await db.rows(
        *in_list(
            "SELECT event_id FROM event WHERE room = ? AND event_id IN (??)"
            " AND (pos IS NOT NULL OR (flags & ?) <> 0)",
            room, list(event_ids), REJECTED | SOFT_FAILED,
        )
    )  # fmt: skip
    return {event_id for (event_id,) in rows}


async def scan_points(db: Database, room: int) -> AsyncIterator[Point]:
    """Yield the place in the state log of every event of the room that has one.

    Those that are no part of the history (they failed softly) may yet be built upon.
    """
    in_history = (
        "SELECT pos, coalesce(line, 0), coalesce(seq, 0) FROM event"
        " WHERE room = ? AND pos > ? ORDER BY pos LIMIT ?"
    )
    async for _, line, seq in db.scan(in_history, room, after=BEFORE_ALL):
        if line:
            yield Point(line, seq)
    others = (
        "SELECT nid, line, seq FROM event WHERE room = ? AND pos IS NULL AND line IS NOT NULL"
        " AND nid > ? ORDER BY nid LIMIT ?"
    )
    async for _, line, seq in db.scan(others, room, after=0):
        yield Point(line, seq)


async def lines_of_room(db: Database, room: int) -> list[tuple[int, int | None, int | None]]:
    """Return (line, parent, parent_seq) of every line of a room."""
    rows = await db.rows("SELECT line, parent, parent_seq FROM state_line WHERE room = ?", room)
    return [(line, parent, seq) for line, parent, seq in rows]


def thin_state_log(tx: Transaction, line: int, first: int, last: int, upto: int) -> None:
    """Of the rows first <= seq <= last keep those that are the newest of their key at `upto`."""
    tx.execute(
        "DELETE FROM state_log WHERE line = ? AND seq >= ? AND seq <= ? AND EXISTS"
        " (SELECT 1 FROM state_log AS newer WHERE newer.line = state_log.line"
        " AND newer.key = state_log.key AND newer.seq > state_log.seq AND newer.seq <= ?)",
        line, first, last, upto,
    )  # fmt: skip


# region a whole room


async def any_events(db: Database, room: int, limit: int) -> list[OldEvent]:
    """Return some events of a room, whatever their standing."""
    rows = await db.rows(
        "SELECT nid, event_id, coalesce(pos, 0), depth, type, sender, state_key IS NOT NULL"
        " FROM event WHERE room = ? ORDER BY depth LIMIT ?",
        room, limit,
    )  # fmt: skip
    return [_old_event(row) for row in rows]


def delete_relationships(tx: Transaction, room: int, room_id: str, users: Sequence[str]) -> None:
    """Remove what people, names and services have to do with a room."""
    tx.execute_many(
        "DELETE FROM account_data WHERE user_id = ? AND room_id = ?",
        [(user, room_id) for user in users],
    )
    tx.execute_many(
        "DELETE FROM delayed_event WHERE user_id = ? AND room_id = ?",
        [(user, room_id) for user in users],
    )
    tx.execute_many(
        "DELETE FROM server_notice_room WHERE user_id = ? AND room_id = ?",
        [(user, room_id) for user in users],
    )
    for table in (
        "membership", "room_alias", "room_published", "appservice_room", "invitation_state",
        "room_server", "backward_extremity", "out_of_band",
    ):  # fmt: skip
        tx.execute(f"DELETE FROM {table} WHERE room = ?", room)


async def has_rows(db: Database, table: str, room: int) -> bool:
    """Whether rows of a room are left in a table of `OF_ROOMS`."""
    return await db.row(f"SELECT 1 FROM {table} WHERE room = ? LIMIT 1", room) is not None


OF_ROOMS = {
    "receipt": "user_id, type, thread",
    "push_exception": "user_id, pos",
    "current_state": "key, pos",
}
"""Tables that hold many rows of a room, with the rest of their keys."""


def delete_some(tx: Transaction, table: str, room: int, limit: int) -> None:
    """Remove some rows of a room from a table of `OF_ROOMS`."""
    key = OF_ROOMS[table]
    tx.execute(
        f"DELETE FROM {table} WHERE room = ? AND ({key}) IN"
        f" (SELECT {key} FROM {table} WHERE room = ? LIMIT ?)",
        room, room, limit,
    )  # fmt: skip


async def head_of_line(db: Database, line: int) -> int:
    """Return the last number of a line; 0 for one that is gone."""
    row = await db.row("SELECT head FROM state_line WHERE line = ?", line)
    return 0 if row is None else int(row[0])


def delete_state(tx: Transaction, line: int, first: int, last: int) -> None:
    """Remove a part of a line."""
    tx.execute("DELETE FROM state_log WHERE line = ? AND seq >= ? AND seq <= ?", line, first, last)


OF_ROOM = (
    "state_line",
    "retention",
    "auth_cover",
    "room_server",
    "backward_extremity",
    "invitation_state",
    "out_of_band",
)
"""Tables that hold few rows of a room."""


def delete_room(tx: Transaction, room: int) -> None:
    """Remove what is left of a room."""
    for table in OF_ROOM:
        tx.execute(f"DELETE FROM {table} WHERE room = ?", room)
    tx.execute("DELETE FROM room WHERE nid = ?", room)
