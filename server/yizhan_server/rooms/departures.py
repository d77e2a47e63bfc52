"""Who is to be told that a room is gone which this server has removed.

A client that was away while a room was closed learns of its leave from the room; once that is
removed, only from here. Removals are few, so all of this is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from yizhan_database import Commit, Database, Transaction
from yizhan_server.clock import Clock
from yizhan_server.storage import room_departures as storage
from yizhan_server.streams import Stream

KEPT_MS = 180 * 86_400_000
"""Whoever has been away for longer begins anew anyway."""


class Departures:
    """Remembers them."""

    def __init__(self, db: Database, stream: Stream, clock: Clock) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._of_user: dict[str, list[tuple[int, str]]] = {}

    async def load(self) -> None:
        """Read what earlier runs of the program recorded."""
        tx = Transaction()
        storage.delete_departures(tx, self._clock.now_ms() - KEPT_MS)
        await self._db.commit(tx)
        self._of_user = {}
        async for pos, room_id, users in storage.scan_departures(self._db):
            self._note(pos, room_id, users)

    def find(self, user_id: str, after: int, upto: int) -> list[str]:
        """Return the rooms that were removed in (after, upto] while the user was in them."""
        of_user = self._of_user.get(user_id, ())
        return [room_id for pos, room_id in of_user if after < pos <= upto]

    def record(self, tx: Transaction, users: Sequence[str], room_id: str) -> None:
        """Record that a room is being removed which these users were in."""
        pos = tx.position()
        storage.append_departure(tx, pos, room_id, users, self._clock.now_ms())

        def tell(commit: Commit) -> None:
            self._note(commit[pos], room_id, users)
            self._stream.publish(commit[pos])
            self._stream.wake(set(users))

        tx.after_commit(tell)

    def _note(self, pos: int, room_id: str, users: Sequence[str]) -> None:
        for user_id in users:
            self._of_user.setdefault(user_id, []).append((pos, room_id))
