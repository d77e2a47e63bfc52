"""Whom to tell that a room was removed from this server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import orjson

from yizhan_database import Database, Pos, Transaction


async def scan_departures(db: Database) -> AsyncIterator[tuple[int, str, list[str]]]:
    """Yield (position, room id, users) of every removal, in order."""
    sql = "SELECT pos, room_id, users FROM room_departure WHERE pos > ? ORDER BY pos LIMIT ?"
    async for pos, room_id, users in db.scan(sql, after=0):
        yield pos, room_id, orjson.loads(users)


def append_departure(
    tx: Transaction, pos: Pos, room_id: str, users: Sequence[str], now_ms: int
) -> None:
    """Record that these users are to be told of a room that is being removed."""
    tx.execute(
        "INSERT INTO room_departure (pos, room_id, users, ts_ms) VALUES (?, ?, ?, ?)",
        pos, room_id, orjson.dumps(users).decode(), now_ms,
    )  # fmt: skip


def delete_departures(tx: Transaction, before_ms: int) -> None:
    """Forget what was to be told before a time."""
    tx.execute(
        "DELETE FROM room_departure WHERE ts_ms < ? /* scan: a row for each removal */", before_ms
    )
