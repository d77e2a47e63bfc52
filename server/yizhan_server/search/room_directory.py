"""The public room directory.

Spec: client-server API, "Listing rooms".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from yizhan_database import Database
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.summaries import describe
from yizhan_server.storage import appservices, directory

# Not a bare number: "0" counts as no token in more than one language.
_TOKEN = re.compile(r"p([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RoomsWanted:
    """What of the directory is asked for."""

    term: str | None = None
    room_types: tuple[str | None, ...] | None = None
    since: str | None = None
    limit: int | None = None
    network: tuple[str, str] | None = None
    """(application service, network): that one's list instead of the server's."""
    all_networks: bool = False
    """The server's list and those of all networks."""


class RoomDirectory:
    """Lists the published rooms, the largest first."""

    def __init__(self, db: Database, rooms: Rooms, *, is_open: bool) -> None:
        self._db = db
        self._rooms = rooms
        self.is_open = is_open
        """Whether it is shown to those who have not signed in."""

    def _lists(self, wanted: RoomsWanted) -> Iterator[AsyncIterator[tuple[int, str, int]]]:
        """Yield the lists to look through, each of (number, room id, joined members)."""
        if wanted.network is not None:
            yield appservices.scan_network_rooms(self._db, *wanted.network)
            return
        yield directory.scan_published_rooms(self._db)
        if wanted.all_networks:
            yield appservices.scan_all_network_rooms(self._db)

    async def page(self, wanted: RoomsWanted) -> dict[str, Any]:
        """Return a page; `since` is the offset that an earlier page named."""
        start = 0
        if wanted.since is not None:
            token = _TOKEN.fullmatch(wanted.since)
            if token is None:
                raise InvalidParam("'since' is not a token of this directory")
            start = int(token[1])
        listed: dict[str, int] = {}
        for scan in self._lists(wanted):
            listed |= {room_id: joined async for _, room_id, joined in scan}
        chunk = []
        for index, (room_id, joined) in enumerate(
            sorted(listed.items(), key=lambda each: (-each[1], each[0]))
        ):
            if index % 50 == 49:
                await asyncio.sleep(0)
            entry = await describe(await self._rooms.get(room_id), joined)
            if _matches(entry, wanted):
                chunk.append(entry)
        end = len(chunk) if wanted.limit is None else start + wanted.limit
        answer: dict[str, Any] = {
            "chunk": chunk[start:end],
            "total_room_count_estimate": len(chunk),
        }
        if end < len(chunk):
            answer["next_batch"] = f"p{end}"
        if start > 0:
            answer["prev_batch"] = f"p{max(0, start - (wanted.limit or 0))}"
        return answer


def _matches(entry: dict[str, Any], wanted: RoomsWanted) -> bool:
    if wanted.room_types is not None and entry.get("room_type") not in wanted.room_types:
        return False
    if wanted.term is None:
        return True
    term = wanted.term.casefold()
    return any(
        term in entry.get(name, "").casefold() for name in ("name", "topic", "canonical_alias")
    )
