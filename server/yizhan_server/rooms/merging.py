"""The state of several events together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from yizhan_server.rooms.room import Room
from yizhan_server.rooms.state_log import Merge
from yizhan_server.storage.state import Point


class Resolver(Protocol):
    """Resolves the state of forks."""

    async def merged(self, room: Room, points: Sequence[Point]) -> tuple[Point, Mapping[int, int]]:
        """Return one of the points, and how the resolution differs from it; 0 = no event."""
        ...


async def merge(resolver: Resolver, room: Room, points: Sequence[Point]) -> Merge:
    """Return the resolved state of several durable places; of one, that place."""
    distinct = sorted(set(points))
    if len(distinct) == 1:
        return Merge(distinct[0])
    return Merge(*await resolver.merged(room, distinct))
