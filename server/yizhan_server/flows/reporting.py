"""Reports of events, rooms and people, kept for the administrators.

Spec: client-server API, "Reporting Content".
"""

from __future__ import annotations

import logging

from yizhan_database import Database, Transaction
from yizhan_server.accounts.accounts import Accounts
from yizhan_server.clock import Clock
from yizhan_server.protocol.errors import InvalidParam, NotFound
from yizhan_server.protocol.identifiers import ServerName, UserID, server_name_of
from yizhan_server.rooms.access import VisibleEvent
from yizhan_server.rooms.registry import Rooms
from yizhan_server.storage import reports as storage
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.reports import Report

log = logging.getLogger(__name__)

MAX_REASON = 5000
NEWEST = 2**62


class Reporting:
    """Takes reports, and shows them to administrators."""

    def __init__(
        self,
        db: Database,
        numbers: Numbers,
        clock: Clock,
        rooms: Rooms,
        accounts: Accounts,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._numbers = numbers
        self._clock = clock
        self._rooms = rooms
        self._accounts = accounts
        self._server_name = server_name

    async def report_event(self, visible: VisibleEvent, reason: str) -> None:
        """Record a report of an event that the reporter, a member of its room, may see."""
        readable, event = visible.readable, visible.event
        if readable.membership != "join":
            raise NotFound("There is no such event, or you are not in its room")
        await self._append(
            readable.user_id, "event", reason,
            room_id=readable.room.room_id, event_id=event.event_id, user_id=event.sender,
        )  # fmt: skip

    async def report_room(self, reporter: UserID, room_id: str, reason: str) -> None:
        """Record a report of a room, which the reporter need not be in."""
        if await self._rooms.find(room_id) is None:
            raise NotFound("This server does not know the room")
        await self._append(reporter, "room", reason, room_id=room_id)

    async def report_user(self, reporter: UserID, user_id: UserID, reason: str) -> None:
        """Record a report of a user; of those of other servers, whether they exist or not."""
        local = server_name_of(user_id) == self._server_name
        if local and await self._accounts.find(user_id) is None:
            raise NotFound("There is no such user")
        await self._append(reporter, "user", reason, user_id=user_id)

    async def latest(self, before: int, limit: int) -> list[Report]:
        """Return the latest reports, for administrators only."""
        return await storage.find_reports(self._db, before, limit)

    async def _append(
        self,
        reporter: UserID,
        kind: str,
        reason: str,
        *,
        room_id: str | None = None,
        event_id: str | None = None,
        user_id: str | None = None,
    ) -> None:
        if len(reason) > MAX_REASON or "\0" in reason:
            raise InvalidParam(f"'reason' must be text of at most {MAX_REASON} characters")
        tx = Transaction()
        nid = await self._numbers.next("report")
        storage.append_report(
            tx,
            Report(nid, self._clock.now_ms(), reporter, kind, room_id, event_id, user_id, reason),
        )
        await self._db.commit(tx)
        log.warning("something was reported", extra={"report": nid, "kind": kind})
