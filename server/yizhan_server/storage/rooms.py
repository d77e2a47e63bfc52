"""Rooms and memberships."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from yizhan_database import Database, Pos, Transaction, in_list


@dataclass(frozen=True, slots=True)
class Extremity:
    """A forward extremity, and the place in the state log of the state after it."""

    nid: int
    event_id: str
    depth: int
    line: int
    seq: int


@dataclass(frozen=True, slots=True)
class StoredRoom:
    """The row of a room."""

    nid: int
    room_id: str
    version: str
    extremities: tuple[Extremity, ...]
    ver: int


@dataclass(frozen=True, slots=True)
class Membership:
    """A user's current membership of a room."""

    room: int
    user_id: str
    membership: str
    sender: str
    event: int
    pos: int
    forgotten: bool


@dataclass(frozen=True, slots=True)
class UserRoom:
    """A room that a user has to do with, and how."""

    nid: int
    room_id: str
    membership: str
    sender: str
    event: int
    pos: int


def _pack(extremities: tuple[Extremity, ...]) -> str:
    return orjson.dumps([[e.nid, e.event_id, e.depth, e.line, e.seq] for e in extremities]).decode()


async def find_room(db: Database, room_id: str) -> StoredRoom | None:
    """Return a room that this server has ever been in."""
    if "\0" in room_id:
        return None  # no column can hold it; an event can name it
    row = await db.row(
        "SELECT nid, room_id, version, forward_extremities, ver FROM room WHERE room_id = ?",
        room_id,
    )
    if row is None:
        return None
    nid, room_id, version, extremities, ver = row
    unpacked = tuple(Extremity(*each) for each in orjson.loads(extremities))
    return StoredRoom(nid, room_id, version, unpacked, ver)


async def room_ids(db: Database, nids: list[int]) -> dict[int, str]:
    """Return the ids of these rooms."""
    rows = await db.rows(*in_list("SELECT nid, room_id FROM room WHERE nid IN (??)", nids))
    return dict(rows)


def create_room(tx: Transaction, nid: int, room_id: str, version: str) -> None:
    """Record a new room without events, at version 0 of its head."""
    tx.guard(
        "INSERT INTO room (nid, room_id, version, forward_extremities, ver)"
        " VALUES (?, ?, ?, '[]', 0) ON CONFLICT DO NOTHING",
        nid, room_id, version,
    )  # fmt: skip


def create_known_room(tx: Transaction, nid: int, room_id: str, version: str) -> None:
    """Record a room of which no events are here, unless it is recorded already."""
    tx.execute(
        "INSERT INTO room (nid, room_id, version, forward_extremities, ver)"
        " VALUES (?, ?, ?, '[]', 0) ON CONFLICT DO NOTHING",
        nid, room_id, version,
    )  # fmt: skip


def correct_version(tx: Transaction, room: int, version: str) -> None:
    """Say that a room of which no events are here is of another version."""
    tx.guard(
        "UPDATE room SET version = ? WHERE nid = ? AND forward_extremities = '[]'", version, room
    )


def delete_memberships(tx: Transaction, room: int) -> None:
    """Forget who has to do with a room."""
    tx.execute("DELETE FROM membership WHERE room = ?", room)


def advance_forward_extremities(
    tx: Transaction, room: int, known_ver: int, extremities: tuple[Extremity, ...]
) -> None:
    """Make `extremities` the room's forward extremities, if its head is still at `known_ver`.

    A guard: when another worker was faster, no row changes and the whole job is undone.
    Without it two concurrent calls would each keep the other's event, and the room would
    fork on every message.
    """
    tx.guard(
        "UPDATE room SET forward_extremities = ?, ver = ver + 1 WHERE nid = ? AND ver = ?",
        _pack(extremities), room, known_ver,
    )  # fmt: skip


def replace_membership(
    tx: Transaction,
    *,
    room: int,
    user_id: str,
    membership: str,
    sender: str,
    event: int,
    pos: Pos,
) -> None:
    """Make this the user's current membership; whatever was forgotten is so no longer."""
    tx.execute(
        "INSERT INTO membership (room, user_id, membership, sender, event, pos, forgotten)"
        " VALUES (?, ?, ?, ?, ?, ?, 0)"
        " ON CONFLICT (room, user_id) DO UPDATE SET membership = excluded.membership,"
        " sender = excluded.sender, event = excluded.event, pos = excluded.pos, forgotten = 0",
        room, user_id, membership, sender, event, pos,
    )  # fmt: skip


def replace_memberships(
    tx: Transaction, room: int, memberships: Iterable[tuple[str, str, str, int]], pos: Pos
) -> None:
    """Make these (user, membership, sender, event) the current ones of many users."""
    tx.execute_many(
        "INSERT INTO membership (room, user_id, membership, sender, event, pos, forgotten)"
        " VALUES (?, ?, ?, ?, ?, ?, 0)"
        " ON CONFLICT (room, user_id) DO UPDATE SET membership = excluded.membership,"
        " sender = excluded.sender, event = excluded.event, pos = excluded.pos, forgotten = 0",
        [(room, *membership, pos) for membership in memberships],
    )


def forget_membership(tx: Transaction, room: int, user_id: str) -> None:
    """Hide a room that the user has left from that user."""
    tx.guard(
        "UPDATE membership SET forgotten = 1 WHERE room = ? AND user_id = ?"
        " AND membership IN ('leave', 'ban')",
        room, user_id,
    )  # fmt: skip


_MEMBERSHIP = "room, user_id, membership, sender, event, pos, forgotten"


def _membership(row: tuple[int, str, str, str, int, int, int]) -> Membership:
    return Membership(*row[:6], bool(row[6]))


async def find_membership(db: Database, room: int, user_id: str) -> Membership | None:
    """Return a user's current membership of a room."""
    row = await db.row(
        f"SELECT {_MEMBERSHIP} FROM membership WHERE room = ? AND user_id = ?", room, user_id
    )
    return None if row is None else _membership(row)


async def memberships_of_user(db: Database, user_id: str) -> list[Membership]:
    """Return the user's memberships of every kind, forgotten ones left out."""
    rows = await db.rows(
        f"SELECT {_MEMBERSHIP} FROM membership WHERE user_id = ? AND forgotten = 0", user_id
    )
    return [_membership(row) for row in rows]


async def rooms_of_user(db: Database, user_id: str, since: int) -> list[UserRoom]:
    """Return the rooms of the user's memberships of every kind.

    Forgotten ones are left out unless the membership changed after the position `since`.
    """
    rows = await db.rows(
        "SELECT m.room, r.room_id, m.membership, m.sender, m.event, m.pos FROM membership AS m"
        " JOIN room AS r ON r.nid = m.room WHERE m.user_id = ? AND (m.forgotten = 0 OR m.pos > ?)",
        user_id,
        since,
    )
    return [UserRoom(*row) for row in rows]


async def last_activity(db: Database, user_id: str, upto: int) -> dict[int, int]:
    """Return the position of the last live event up to `upto` of each room of the user."""
    rows = await db.rows(
        "SELECT m.room, (SELECT e.pos FROM event AS e WHERE e.room = m.room AND e.pos > 0"
        " AND e.pos <= ? ORDER BY e.pos DESC LIMIT 1)"
        " FROM membership AS m WHERE m.user_id = ? AND m.forgotten = 0",
        upto, user_id,
    )  # fmt: skip
    return {room: pos or 0 for room, pos in rows}


async def memberships_changed(
    db: Database, user_id: str, after: int, upto: int
) -> list[Membership]:
    """Return the user's memberships that changed in (after, upto]."""
    rows = await db.rows(
        f"SELECT {_MEMBERSHIP} FROM membership WHERE user_id = ? AND pos > ? AND pos <= ?",
        user_id, after, upto,
    )  # fmt: skip
    return [_membership(row) for row in rows]


async def members(db: Database, room: int, membership: str) -> list[str]:
    """Return the users whose current membership of the room is `membership`."""
    rows = await db.rows(
        "SELECT user_id FROM membership WHERE room = ? AND membership = ?", room, membership
    )
    return [user_id for (user_id,) in rows]


async def members_of_server(db: Database, room: int, server: str) -> list[str]:
    """Return the users of a server who have, or had, any membership of the room."""
    rows = await db.rows(
        "SELECT user_id FROM membership WHERE room = ? AND user_id LIKE '%:' || ?"
        " ORDER BY user_id",
        room, server,
    )  # fmt: skip
    return [user_id for (user_id,) in rows]


async def membership_counts(db: Database, room: int) -> dict[str, int]:
    """Return how many users have each membership of the room."""
    rows = await db.rows(
        "SELECT membership, count(*) FROM membership WHERE room = ? GROUP BY membership", room
    )
    return dict(rows)


async def first_members(
    db: Database, room: int, memberships: tuple[str, ...], but: str, limit: int
) -> list[tuple[str, int]]:
    """Return (user, member event) of the first members other than `but`, oldest event first."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, event FROM membership WHERE room = ? AND membership IN (??)"
            " AND user_id <> ? ORDER BY event LIMIT ?",
            room, memberships, but, limit,
        )
    )  # fmt: skip
    return [(user_id, event) for user_id, event in rows]


async def share_a_room(db: Database, one: str, other: str) -> bool:
    """Whether two users are both joined to some room now."""
    row = await db.row(
        "SELECT 1 FROM membership AS a JOIN membership AS b"
        " ON b.room = a.room AND b.user_id = ? AND b.membership = 'join'"
        " WHERE a.user_id = ? AND a.membership = 'join' LIMIT 1",
        other, one,
    )  # fmt: skip
    return row is not None


async def mutual_rooms(db: Database, one: str, other: str) -> list[str]:
    """Return the ids of the rooms that two users are both joined to, in order."""
    rows = await db.rows(
        "SELECT r.room_id FROM membership AS a JOIN membership AS b"
        " ON b.room = a.room AND b.user_id = ? AND b.membership = 'join'"
        " JOIN room AS r ON r.nid = a.room"
        " WHERE a.user_id = ? AND a.membership = 'join' ORDER BY r.room_id",
        other, one,
    )  # fmt: skip
    return [room_id for (room_id,) in rows]


async def users_sharing_rooms(db: Database, user_id: str) -> list[str]:
    """Return the users joined to some room that `user_id` is joined to, that user included."""
    rows = await db.rows(
        "SELECT DISTINCT b.user_id FROM membership AS a JOIN membership AS b"
        " ON b.room = a.room AND b.membership = 'join'"
        " WHERE a.user_id = ? AND a.membership = 'join'",
        user_id,
    )
    return [other for (other,) in rows]
