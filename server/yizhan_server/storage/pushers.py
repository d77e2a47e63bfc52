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
        f"SELECT {_COLUMNS} FROM pusher WHERE user_id = ? ORDER BY app_id, pushkey",  # noqa: S608
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
