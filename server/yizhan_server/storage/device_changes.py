"""The append-only record of changes to users' devices and cross-signing keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from yizhan_database import in_list

if TYPE_CHECKING:
    from collections.abc import Collection

    from yizhan_database import Database, Pos, Transaction

NO_DEVICE = ""


class ChangeKind(StrEnum):
    """What changed."""

    KEYS = "keys"
    """A device began, or its keys or its name are others now."""
    DELETED = "deleted"
    CROSS_SIGNING = "cross_signing"
    OWN = "own"
    """Something that only the user's own devices can see."""
    REMOTE = "remote"
    """Anything about a user of another server."""


OF_DEVICES = (ChangeKind.KEYS.value, ChangeKind.DELETED.value)
"""What other servers number."""


class _MemberContent(msgspec.Struct):
    membership: str = ""


class _Member(msgspec.Struct):
    content: _MemberContent


_MEMBER = msgspec.json.Decoder(_Member)


def append_device_change(
    tx: Transaction, user_id: str, device_id: str, kind: ChangeKind, pos: Pos
) -> None:
    """Record a change at `pos`; `device_id` is NO_DEVICE for cross-signing keys."""
    tx.execute(
        "INSERT INTO device_change (pos, user_id, device_id, prev_pos, kind) VALUES (?, ?, ?,"
        " (SELECT max(pos) FROM device_change WHERE user_id = ? AND pos < ?), ?)",
        pos, user_id, device_id, user_id, pos, kind.value,
    )  # fmt: skip


def append_new_device(tx: Transaction, user_id: str, device_id: str, pos: Pos) -> None:
    """Record that a device begins, unless there is one of this id already.

    To be recorded before the device is inserted.
    """
    tx.execute(
        "INSERT INTO device_change (pos, user_id, device_id, prev_pos, kind)"
        " SELECT ?, ?, ?, (SELECT max(pos) FROM device_change WHERE user_id = ? AND pos < ?), ?"
        " WHERE NOT EXISTS (SELECT 1 FROM device WHERE user_id = ? AND device_id = ?)",
        pos, user_id, device_id, user_id, pos, ChangeKind.KEYS.value, user_id, device_id,
    )  # fmt: skip


def delete_remote_changes(tx: Transaction, user_id: str) -> None:
    """Forget earlier changes of a user of another server, before a later one is recorded."""
    tx.execute(
        "DELETE FROM device_change WHERE user_id = ? AND kind = ?",
        user_id, ChangeKind.REMOTE.value,
    )  # fmt: skip


async def last_change(db: Database, user_id: str) -> int:
    """Return the position of the last change to a user's devices that others see, 0 for none."""
    row = await db.row(
        "SELECT pos FROM device_change WHERE user_id = ? AND kind IN (?, ?)"
        " ORDER BY pos DESC LIMIT 1",
        user_id, *OF_DEVICES,
    )  # fmt: skip
    return 0 if row is None else int(row[0])


@dataclass(frozen=True, slots=True)
class OwedChange:
    """A change that a server is to be told."""

    pos: int
    user_id: str
    device_id: str
    kind: ChangeKind
    prev_pos: int | None
    """The change of the user's devices before it."""


async def servers_concerned(db: Database, after: int, upto: int) -> list[str]:
    """Return the servers that share a room with somebody whose keys changed in (after, upto].

    So also those of the rooms that somebody with keys came into then; perhaps later.
    """
    # In one statement: each event asks. Memberships not `pos <= upto`: of somebody who came within
    # and has had another name since there is only the newest row.
    rows = await db.rows(
        "SELECT s.server FROM device_change AS d"
        " JOIN membership AS m ON m.user_id = d.user_id AND m.membership = 'join'"
        " JOIN room_server AS s ON s.room = m.room AND s.to_pos = 0"
        " WHERE d.pos > ? AND d.pos <= ? AND d.kind IN (?, ?, ?)"
        " UNION SELECT s.server FROM membership AS m"
        " JOIN room_server AS s ON s.room = m.room AND s.to_pos = 0"
        " WHERE m.pos > ? AND m.membership = 'join' AND EXISTS"
        " (SELECT 1 FROM device_keys AS k WHERE k.user_id = m.user_id AND k.keys IS NOT NULL)",
        after, upto, *OF_DEVICES, ChangeKind.CROSS_SIGNING.value, after,
    )  # fmt: skip
    return [server for (server,) in rows]


async def owed_changes(
    db: Database, server: str, after: int, upto: int, limit: int
) -> list[OwedChange]:
    """Return the first changes in (after, upto] of users who share a room with a server."""
    rows = await db.rows(
        "SELECT d.pos, d.user_id, d.device_id, d.kind, (SELECT max(p.pos) FROM device_change AS p"
        " WHERE p.user_id = d.user_id AND p.pos < d.pos AND p.kind IN (?, ?))"
        " FROM device_change AS d WHERE d.pos > ? AND d.pos <= ? AND d.kind IN (?, ?, ?)"
        " AND EXISTS (SELECT 1 FROM membership AS m JOIN room_server AS s ON s.room = m.room"
        " AND s.server = ? AND s.to_pos = 0"
        " WHERE m.user_id = d.user_id AND m.membership = 'join')"
        " ORDER BY d.pos LIMIT ?",
        *OF_DEVICES, after, upto, *OF_DEVICES, ChangeKind.CROSS_SIGNING.value, server, limit,
    )  # fmt: skip
    return [
        OwedChange(pos, user_id, device_id, ChangeKind(kind), prev_pos)
        for pos, user_id, device_id, kind, prev_pos in rows
    ]


@dataclass(frozen=True, slots=True)
class Meeting:
    """Somebody with keys has come into a room, and shares no other one with a server there."""

    pos: int
    user_id: str
    event: int


async def meetings(db: Database, server: str, after: int, upto: int, limit: int) -> list[Meeting]:
    """Return the first meetings of people of ours with a server in (after, upto], in order.

    Any member event of theirs looks like one, an invitation or a change of name too. The membership
    is that of now, by a later row perhaps; when it began, the room's state says.
    """
    rows = await db.rows(
        "SELECT c.pos, m.user_id, c.event FROM membership AS m"
        " JOIN room_server AS s ON s.room = m.room AND s.server = ? AND s.to_pos = 0"
        " JOIN state_key AS n ON n.type = 'm.room.member' AND n.state_key = m.user_id"
        " JOIN current_state AS c ON c.room = m.room AND c.key = n.nid AND c.pos > ? AND c.pos <= ?"
        " WHERE m.pos > ? AND m.membership = 'join' AND EXISTS"
        " (SELECT 1 FROM device_keys AS k WHERE k.user_id = m.user_id AND k.keys IS NOT NULL)"
        " AND NOT EXISTS (SELECT 1 FROM membership AS o JOIN room_server AS t"
        " ON t.room = o.room AND t.server = ? AND t.to_pos = 0 AND t.from_pos < c.pos"
        " WHERE o.user_id = m.user_id AND o.membership = 'join' AND o.pos < c.pos)"
        " ORDER BY c.pos, m.user_id LIMIT ?",
        server, after, upto, after, server, limit,
    )  # fmt: skip
    return [Meeting(pos, user_id, event) for pos, user_id, event in rows]


async def rooms_shared(db: Database, server: str, user_id: str, since: int) -> list[int]:
    """Return the rooms in which a user now is with a server that has been there since."""
    rows = await db.rows(
        "SELECT m.room FROM membership AS m JOIN room_server AS s ON s.room = m.room"
        " AND s.server = ? AND s.to_pos = 0 AND s.from_pos <= ?"
        " WHERE m.user_id = ? AND m.membership = 'join'",
        server, since, user_id,
    )  # fmt: skip
    return [room for (room,) in rows]


async def last_change_before(db: Database, user_id: str, upto: int) -> OwedChange | None:
    """Return the last change of a user's devices up to a position."""
    rows = await db.rows(
        "SELECT pos, device_id, kind FROM device_change WHERE user_id = ? AND pos <= ?"
        " AND kind IN (?, ?) ORDER BY pos DESC LIMIT 2",
        user_id, upto, *OF_DEVICES,
    )  # fmt: skip
    if not rows:
        return None
    pos, device_id, kind = rows[0]
    prev_pos = rows[1][0] if len(rows) > 1 else None
    return OwedChange(pos, user_id, device_id, ChangeKind(kind), prev_pos)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a window of the stream holds that may concern a viewer's device lists."""

    changed: frozenset[str]
    """Users whose devices or keys changed, whether or not the viewer shares a room with them."""
    signed: frozenset[str]
    """Users whose master keys the viewer signed."""
    memberships: bool
    """Whether anybody's membership of any room changed."""


async def changes_within(db: Database, viewer: str, after: int, upto: int) -> Changes:
    """Return what happened in (after, upto], in one statement: each sync asks."""
    # Memberships not `pos <= upto`: one that changed within and once more after the window has
    # only its newest row.
    rows = await db.rows(
        "SELECT DISTINCT 0, user_id FROM device_change"
        " WHERE pos > ? AND pos <= ? AND (kind <> ? OR user_id = ?)"
        " UNION ALL SELECT 1, target FROM master_signature"
        " WHERE signer = ? AND pos > ? AND pos <= ?"
        " UNION ALL SELECT 2, '' WHERE EXISTS (SELECT 1 FROM membership WHERE pos > ?)",
        after, upto, ChangeKind.OWN.value, viewer, viewer, after, upto, after,
    )  # fmt: skip
    return Changes(
        frozenset(user for kind, user in rows if kind == 0),
        frozenset(user for kind, user in rows if kind == 1),
        any(kind == 2 for kind, _ in rows),
    )


@dataclass(frozen=True, slots=True)
class MemberChange:
    """One change of one member in a room's state; event 0 means that there is none."""

    room: int
    member: str
    event: int
    event_before: int
    """The member event at the beginning of the window."""


async def member_changes(db: Database, user_id: str, after: int, upto: int) -> list[MemberChange]:
    """Return the changes in (after, upto], in order, of the rooms that matter to `user_id`.

    Those are the rooms that the user is joined to, or was so until after `after`.
    """
    rows = await db.rows(
        "SELECT c.room, k.state_key, c.event, (SELECT p.event FROM current_state AS p"
        " WHERE p.room = c.room AND p.key = c.key AND p.pos <= ? ORDER BY p.pos DESC LIMIT 1)"
        " FROM membership AS m"
        " JOIN current_state AS c ON c.room = m.room AND c.pos > ? AND c.pos <= ?"
        " JOIN state_key AS k ON k.nid = c.key AND k.type = 'm.room.member'"
        " WHERE m.user_id = ? AND (m.membership = 'join' OR m.pos > ?) ORDER BY c.pos",
        after, after, upto, user_id, after,
    )  # fmt: skip
    return [MemberChange(room, member, event, before or 0) for room, member, event, before in rows]


async def member_event_at(db: Database, room: int, member: str, pos: int) -> int:
    """Return the member event of the room's state at `pos`; 0 when there is none."""
    row = await db.row(
        "SELECT c.event FROM state_key AS k JOIN current_state AS c"
        " ON c.room = ? AND c.key = k.nid AND c.pos <= ?"
        " WHERE k.type = 'm.room.member' AND k.state_key = ? ORDER BY c.pos DESC LIMIT 1",
        room, pos, member,
    )  # fmt: skip
    return 0 if row is None else row[0]


async def memberships_said(db: Database, nids: Collection[int]) -> dict[int, str]:
    """Return the memberships that these member events say."""
    rows = await db.rows(*in_list("SELECT nid, client FROM event WHERE nid IN (??)", nids))
    return {nid: _MEMBER.decode(client).content.membership for nid, client in rows}


async def sharing_among(db: Database, user_id: str, others: Collection[str]) -> set[str]:
    """Return which of `others` are joined to a room that `user_id` is joined to now."""
    rows = await db.rows(
        *in_list(
            "SELECT DISTINCT b.user_id FROM membership AS a JOIN membership AS b"
            " ON b.room = a.room AND b.membership = 'join' AND b.user_id IN (??)"
            " WHERE a.user_id = ? AND a.membership = 'join'",
            others, user_id,
        )
    )  # fmt: skip
    return {other for (other,) in rows}


async def shared_since(db: Database, user_id: str, upto: int) -> set[str]:
    """Return who shares a room with `user_id` in which neither's membership changed after `upto`.

    That they shared it at `upto` and ever since is then certain.
    """
    rows = await db.rows(
        "SELECT DISTINCT b.user_id FROM membership AS a JOIN membership AS b"
        " ON b.room = a.room AND b.membership = 'join' AND b.pos <= ?"
        " WHERE a.user_id = ? AND a.membership = 'join' AND a.pos <= ?",
        upto, user_id, upto,
    )  # fmt: skip
    return {other for (other,) in rows}
