"""Events by what they relate to."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from yizhan_database import Database, in_list
from yizhan_server.storage.events import (
    COLUMNS,
    REDACTED,
    REJECTED,
    SOFT_FAILED,
    StoredEvent,
    event_from,
    events_by_nid,
)

HIDDEN = REDACTED | REJECTED | SOFT_FAILED
"""A redacted event no longer relates to anything."""


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """A thread as its root is shown with."""

    latest: StoredEvent
    count: int
    participated: bool


async def related(
    db: Database,
    room: int,
    event_id: str,
    *,
    rel_type: str | None,
    event_type: str | None,
    after: int,
    before: int,
    backwards: bool,
    limit: int,
    hops: int,
) -> list[StoredEvent]:
    """Return events of the room with after < pos < before that relate to `event_id`.

    With several hops, what relates to those belongs too, whatever its relation.
    """
    targets, found = [event_id], dict[int, StoredEvent]()
    for hop in range(hops):
        if not targets:
            break
        only = rel_type if hop == 0 else None
        rows = await db.rows(
            *in_list(
                f"SELECT {COLUMNS} FROM event WHERE rel_to IN (??) AND room = ? AND pos > ?"
                " AND pos < ? AND (CAST(? AS TEXT) IS NULL OR rel_type = ?)"
                " AND (CAST(? AS TEXT) IS NULL OR type = ?)"
                f" AND flags & {HIDDEN} = 0 ORDER BY pos {'DESC' if backwards else 'ASC'} LIMIT ?",
                targets, room, after, before, only, only, event_type, event_type, limit,
            )
        )  # fmt: skip
        events = [event_from(row) for row in rows if row[0] not in found]
        found.update((event.nid, event) for event in events)
        targets = [event.event_id for event in events]
    ordered = sorted(found.values(), key=lambda event: event.pos, reverse=backwards)
    return ordered[:limit]


async def kinds_of_relations(
    db: Database, event_ids: list[str], rel_types: tuple[str, ...]
) -> list[tuple[str, str]]:
    """Return which of these events are related to, and how."""
    rows = await db.rows(
        *in_list(
            "SELECT DISTINCT rel_to, rel_type FROM event WHERE rel_to IN (??)"
            f" AND rel_type IN (??) AND pos IS NOT NULL AND flags & {HIDDEN} = 0",
            event_ids, rel_types,
        )
    )  # fmt: skip
    return [(event_id, rel_type) for event_id, rel_type in rows]


async def latest_replacement(db: Database, room: int, target: StoredEvent) -> StoredEvent | None:
    """Return the newest edit of an event by its own sender, of its own type."""
    row = await db.row(
        f"SELECT {COLUMNS} FROM event WHERE rel_to = ? AND rel_type = 'm.replace' AND room = ?"
        f" AND sender = ? AND type = ? AND state_key IS NULL AND pos IS NOT NULL"
        f" AND flags & {HIDDEN} = 0 ORDER BY ts_ms DESC, event_id DESC LIMIT 1",
        target.event_id, room, target.sender, target.type,
    )  # fmt: skip
    return None if row is None else event_from(row)


async def thread_summary(
    db: Database, room: int, root: str, user_id: str, upto: int, ignored: AbstractSet[str]
) -> ThreadSummary | None:
    """Return the newest reply, the number of replies, and whether the user wrote one.

    As of the stream position `upto`, without replies by users in `ignored`.
    """
    rows = await db.rows(
        "SELECT sender, count(*), max(pos) FROM event"
        " WHERE rel_to = ? AND rel_type = 'm.thread' AND room = ? AND pos <= ?"
        f" AND flags & {HIDDEN} = 0 GROUP BY sender",
        root, room, upto,
    )  # fmt: skip
    counted = [(sender, count, pos) for sender, count, pos in rows if sender not in ignored]
    if not counted:
        return None
    newest = max(pos for _, _, pos in counted)
    latest = await db.row(f"SELECT {COLUMNS} FROM event WHERE room = ? AND pos = ?", room, newest)
    assert latest is not None, "the position was just read"
    return ThreadSummary(
        event_from(latest),
        sum(count for _, count, _ in counted),
        any(sender == user_id for sender, _, _ in counted),
    )


async def thread_roots(
    db: Database, room: int, participant: str | None, before: int, limit: int
) -> list[tuple[StoredEvent, int]]:
    """Return the roots of threads with the position of the newest reply, newest first."""
    rows = await db.rows(
        "SELECT rel_to, max(pos) AS newest FROM event WHERE room = ? AND thread IS NOT NULL"
        f" AND rel_type = 'm.thread' AND flags & {HIDDEN} = 0 AND pos IS NOT NULL"
        " GROUP BY rel_to HAVING max(pos) < ?"
        " AND (CAST(? AS TEXT) IS NULL OR max(CASE WHEN sender = ? THEN 1 ELSE 0 END) = 1"
        "      OR EXISTS (SELECT 1 FROM event AS root"
        "                 WHERE root.event_id = rel_to AND root.sender = ?))"
        " ORDER BY newest DESC LIMIT ?",
        room, before, participant, participant, participant, limit,
    )  # fmt: skip
    roots = await db.rows(
        *in_list(
            "SELECT event_id, nid FROM event WHERE event_id IN (??) AND room = ?"
            " AND pos IS NOT NULL",
            [event_id for event_id, _ in rows], room,
        )
    )  # fmt: skip
    nids: dict[str, int] = dict(roots)
    events = await events_by_nid(db, list(nids.values()))
    return [(events[nids[event_id]], newest) for event_id, newest in rows if event_id in nids]
