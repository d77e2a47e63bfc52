"""Pushers: where a user's notifications go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import in_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_database import Database, Pos, Row, Transaction
    from yizhan_server.protocol.identifiers import DeviceID, UserID


@dataclass(frozen=True, slots=True)
class Pusher:
    """One pusher, of kind http; `pushkey` and `data` are never logged."""

    app_id: str
    pushkey: str
    app_display_name: str
    device_display_name: str
    profile_tag: str | None
    lang: str
    data: bytes
    """JSON object; its `url` is where notifications are sent and is not part of them."""
    created_ms: int
    pos: int
    """It is told of events above this position."""


_COLUMNS = (
    "app_id, pushkey, app_display_name, device_display_name, profile_tag, lang, data,"
    " created_ms, pos"
)


async def find_pushers(db: Database, user_id: UserID) -> list[Pusher]:
    """Return a user's pushers."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM pusher WHERE user_id = ? ORDER BY app_id, pushkey",
        user_id,
    )
    return [_pusher(row) for row in rows]


def _pusher(row: Row) -> Pusher:
    return Pusher(*row)


def upsert_pusher(
    tx: Transaction, user_id: UserID, device_id: DeviceID, pusher: Pusher, pos: Pos
) -> None:
    """Set a pusher; one that exists keeps its age and its place in the stream."""
    tx.execute(
        "INSERT INTO pusher (user_id, app_id, pushkey, device_id, app_display_name,"
        " device_display_name, profile_tag, lang, data, created_ms, pos)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET device_id = excluded.device_id,"
        " app_display_name = excluded.app_display_name,"
        " device_display_name = excluded.device_display_name,"
        " profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data",
        user_id, pusher.app_id, pusher.pushkey, device_id, pusher.app_display_name,
        pusher.device_display_name, pusher.profile_tag, pusher.lang, pusher.data,
        pusher.created_ms, pos,
    )  # fmt: skip


def delete_pusher(tx: Transaction, user_id: UserID, app_id: str, pushkey: str) -> None:
    """Remove one pusher."""
    tx.execute(
        "DELETE FROM pusher WHERE user_id = ? AND app_id = ? AND pushkey = ?",
        user_id, app_id, pushkey,
    )  # fmt: skip


def delete_pushers_of_others(tx: Transaction, user_id: UserID, app_id: str, pushkey: str) -> None:
    """Remove the pusher from every other user: the app now belongs to this one."""
    tx.execute(
        "DELETE FROM pusher WHERE app_id = ? AND pushkey = ? AND user_id <> ?",
        app_id, pushkey, user_id,
    )  # fmt: skip


def delete_pushers_of_devices(
    tx: Transaction, user_id: UserID, device_ids: Sequence[DeviceID]
) -> None:
    """Remove what these devices set."""
    tx.execute(
        *in_list("DELETE FROM pusher WHERE user_id = ? AND device_id IN (??)", user_id, device_ids)
    )


@dataclass(frozen=True, slots=True)
class Notice:
    """An event that notifies a user."""

    pos: int
    event: int
    room: int
    flags: int
    tweaks: str | None
    """JSON of the user's own tweaks; None where the event's flags say them."""


async def users_with_pushers(db: Database) -> set[str]:
    """Return everybody who has a pusher."""
    sql = "SELECT DISTINCT user_id FROM pusher /* scan: few, and read only when they change */"
    return {user_id for (user_id,) in await db.rows(sql)}


async def lowest_position(db: Database, user_id: str) -> int:
    """Return the least position that one of the user's pushers has come to."""
    row = await db.row("SELECT min(pos) FROM pusher WHERE user_id = ?", user_id)
    return 0 if row is None else row[0] or 0


def advance_pusher(tx: Transaction, user_id: str, app_id: str, pushkey: str, position: int) -> None:
    """Record that a pusher has been told of everything up to `position`."""
    tx.execute(
        "UPDATE pusher SET pos = ? WHERE user_id = ? AND app_id = ? AND pushkey = ? AND pos < ?",
        position, user_id, app_id, pushkey, position,
    )  # fmt: skip


async def notices_after(
    db: Database, user_id: str, after: int, upto: int, limit: int
) -> list[Notice]:
    """Return the first events in (after, upto] that notify the user, own events left out.

    An invitation notifies though the user is not in the room yet; else only joined rooms do.
    """
    rows = await db.rows(
        "SELECT e.pos, e.nid, e.room, e.flags, x.tweaks FROM event AS e"
        " JOIN membership AS m ON m.room = e.room AND m.user_id = ?"
        " AND (m.membership = 'join' OR m.event = e.nid)"
        " LEFT JOIN push_exception AS x"
        " ON x.room = e.room AND x.user_id = ? AND x.pos = e.pos"
        " WHERE e.pos > ? AND e.pos <= ? AND e.sender <> ?"
        " AND (e.flags & 1) + coalesce(x.notify, 0) > 0 ORDER BY e.pos LIMIT ?",
        user_id, user_id, after, upto, user_id, limit,
    )  # fmt: skip
    return [Notice(*row) for row in rows]


async def events_in_stream(
    db: Database, after: int, upto: int, limit: int
) -> list[tuple[int, int, str]]:
    """Return (pos, room, sender) of the first live events of all rooms in (after, upto]."""
    rows = await db.rows(
        "SELECT pos, room, sender FROM event WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
        after, upto, limit,
    )  # fmt: skip
    return [(pos, room, sender) for pos, room, sender in rows]
