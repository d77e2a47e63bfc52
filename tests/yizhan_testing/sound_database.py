"""What has to hold of a homeserver's database whenever the server is not at work on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import apsw
import asyncpg  # type: ignore[import-untyped]
import orjson

Rows = Callable[..., Awaitable[list[tuple[Any, ...]]]]


async def check_database(url: str) -> None:
    """Check what is stored: sound, no event with two positions, no room half there."""
    async with reading(url) as rows:
        if url.startswith("sqlite:"):
            assert await rows("PRAGMA integrity_check") == [("ok",)]
            assert not await rows("PRAGMA foreign_key_check")
        for column in ("event_id", "pos"):
            twice = f"SELECT {column} FROM event WHERE pos > 0 GROUP BY 1 HAVING count(*) > 1"
            assert not await rows(twice)
        ((position,),) = await rows("SELECT value FROM yizhan_counter WHERE name = 'position'")
        ((last,),) = await rows("SELECT coalesce(max(pos), 0) FROM event")
        assert last <= position
        for nid, extremities in await rows("SELECT nid, forward_extremities FROM room"):
            await _check_room(rows, nid, orjson.loads(extremities))


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Rows]:
    """Give what reads a database of either kind, beside or without its server."""
    if url.startswith("sqlite:"):
        file = apsw.Connection(url.removeprefix("sqlite://"))

        async def of_file(sql: str, *args: Any) -> list[tuple[Any, ...]]:
            return list(file.execute(sql, args))

        try:
            yield of_file
        finally:
            file.close()
        return
    connection = await asyncpg.connect(url)

    async def of_server(sql: str, *args: Any) -> list[tuple[Any, ...]]:
        numbers = count(1)
        found = await connection.fetch(re.sub(r"\?", lambda _: f"${next(numbers)}", sql), *args)
        return [tuple(row) for row in found]

    try:
        yield of_server
    finally:
        await connection.close()


async def _check_room(rows: Rows, room: int, extremities: list[list[Any]]) -> None:
    current = {
        (kind, key): event
        for kind, key, event in await rows(
            "SELECT k.type, k.state_key, c.event FROM current_state AS c"
            " JOIN state_key AS k ON k.nid = c.key WHERE c.room = ? ORDER BY c.pos",
            room,
        )
        if event
    }
    memberships = await rows(
        "SELECT user_id, membership, event FROM membership WHERE room = ?", room
    )
    if not extremities:
        # Known of, but nobody is in it.
        assert not current, "a state without a room"
        assert not await rows("SELECT 1 FROM event WHERE room = ? AND pos > 0", room)
        assert "join" not in {membership for _, membership, _ in memberships}
        return
    assert ("m.room.create", "") in current
    for nid, *place in extremities:
        found = "SELECT event_id, depth, line, seq FROM event WHERE nid = ? AND pos > 0"
        assert await rows(found, nid) == [tuple(place)]
    joined: Counter[str] = Counter()
    for user_id, membership, event in memberships:
        assert current["m.room.member", user_id] == event
        if membership == "join":
            joined[user_id.partition(":")[2]] += 1
    present = await rows(
        "SELECT server, joined FROM room_server WHERE room = ? AND to_pos = 0", room
    )
    assert dict(present) == joined
