"""Events that are sent later, unless their sender asks for something else before (MSC4140).

A caller's device sends "I have left" in an hour and keeps restarting that, so that it is sent
although the device may be gone. Delayed events are rows: they survive a restart, and what fell
due meanwhile is sent at once. The delay's id makes the sending idempotent, as a transaction id
does. Whoever knows the id may restart, send or cancel; it is a secret.

A delayed state event ends when another user sets the same state; this is looked up whenever the
delayed event is touched, which nobody can tell from its having ended at that moment.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from contextlib import suppress
from typing import Any

import orjson

from yizhan_config.settings import DelayedEvents as DelayedEventSettings
from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.accounts.requester import Requester
from yizhan_server.clock import Clock
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import Forbidden, LimitExceeded, MatrixError, NotFound
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.access import JoinedRoom
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.writer import ClientTxn, Draft, EventWriter
from yizhan_server.storage import delayed as storage
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.delayed import DelayedEvent
from yizhan_server.streams import Stream

log = logging.getLogger(__name__)

BATCH = 50
LONGEST_SLEEP_S = 60.0


class DelayedEvents:
    """Keeps delayed events and sends them when they are due."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        clock: Clock,
        rooms: Rooms,
        writer: EventWriter,
        settings: DelayedEventSettings,
    ) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._rooms = rooms
        self._writer = writer
        self._settings = settings
        self._changed = asyncio.Event()

    async def delay(
        self,
        joined: JoinedRoom,
        requester: Requester,
        draft: Draft,
        delay_ms: int,
    ) -> str:
        """Keep an event for later and return the id of the delay."""
        max_delay_ms = self._settings.max_delay_seconds * 1000
        if max_delay_ms == 0:
            raise Forbidden("This server sends no delayed events")
        if delay_ms > max_delay_ms:
            raise MatrixError(
                400, "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE",
                f"The delay must not exceed {max_delay_ms} ms",
                **{
                    "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED",
                    "org.matrix.msc4140.max_delay": max_delay_ms,
                },
            )  # fmt: skip
        now_ms = self._clock.now_ms()
        kept = await storage.find_delayed_of_user(self._db, requester.user_id)
        if len(kept) >= self._settings.max_per_user:
            raise LimitExceeded(max(1000, min(each.due_ms for each in kept) - now_ms))
        delay_id = secrets.token_urlsafe(24)
        tx = Transaction()
        storage.insert_delayed(
            tx,
            DelayedEvent(
                delay_id, requester.user_id, requester.device_id, joined.room.room_id, draft.type,
                draft.state_key, encode_canonical(draft.content), delay_ms, now_ms,
                now_ms + delay_ms, self._stream.position,
            ),
        )  # fmt: skip
        await self._db.commit(tx)
        self._changed.set()
        return delay_id

    async def of_user(self, user_id: UserID) -> list[dict[str, Any]]:
        """Return a user's delayed events."""
        return [
            _shown(each)
            for each in await storage.find_delayed_of_user(self._db, user_id)
            if not await self._is_overtaken(each)
        ]

    async def of_id(self, user_id: UserID, delay_id: str) -> dict[str, Any]:
        """Return one of a user's delayed events, or answer M_NOT_FOUND."""
        delayed = await self._get(delay_id)
        if delayed.user_id != user_id:
            raise _unknown()
        return _shown(delayed)

    async def restart(self, delay_id: str) -> None:
        """Begin the delay anew, or answer M_NOT_FOUND when it is over."""
        delayed = await self._get(delay_id)
        now_ms = self._clock.now_ms()
        tx = Transaction()
        storage.restart_delayed(tx, delay_id, now_ms, now_ms + delayed.delay_ms)
        await self._commit(tx)

    async def cancel(self, delay_id: str) -> None:
        """Forget the event, or answer M_NOT_FOUND when it was sent."""
        await self._get(delay_id)
        tx = Transaction()
        storage.delete_delayed(tx, delay_id)
        await self._commit(tx)

    async def send(self, delay_id: str) -> None:
        """Send the event now, or answer why it cannot be sent."""
        await self._send(await self._get(delay_id))

    async def run(self) -> None:
        """Send what is due; in the background.

        Each room by itself: one whose policy server takes its time holds up no other.
        """
        busy: dict[str, int] = {}
        """Rooms in which something is being sent, and how much."""
        async with asyncio.TaskGroup() as rooms:
            while True:
                self._changed.clear()
                now_ms = self._clock.now_ms()
                limit = BATCH + sum(busy.values())
                due: dict[str, list[DelayedEvent]] = defaultdict(list)
                for delayed in await storage.find_due(self._db, now_ms, limit):
                    if delayed.room_id not in busy:
                        due[delayed.room_id].append(delayed)
                for room_id, events in due.items():
                    busy[room_id] = len(events)
                    rooms.create_task(self._send_of_room(room_id, events, busy))
                if not due:
                    await self._sleep(now_ms)

    async def _sleep(self, now_ms: int) -> None:
        """Wait until something changes, or more is due than at `now_ms`."""
        next_ms = await storage.next_due(self._db, now_ms)
        sleep_s = LONGEST_SLEEP_S
        if next_ms is not None:
            sleep_s = min(sleep_s, max(0, next_ms - self._clock.now_ms()) / 1000)
        with suppress(TimeoutError):
            async with asyncio.timeout(sleep_s):
                await self._changed.wait()

    async def _send_of_room(
        self, room_id: str, events: list[DelayedEvent], busy: dict[str, int]
    ) -> None:
        try:
            for delayed in events:
                await self._send_due(delayed)
        finally:
            del busy[room_id]
            self._changed.set()

    async def _send_due(self, delayed: DelayedEvent) -> None:
        if await self._is_overtaken(delayed):
            await self._forget(delayed)
            return
        try:
            await self._send(delayed)
        except MatrixError as error:
            if error.status == 503:
                raise  # The supervisor tries again.
            log.info(
                "a delayed event was refused",
                extra={"room_id": delayed.room_id, "type": delayed.type, "why": error.errcode},
            )
            await self._forget(delayed)

    async def _send(self, delayed: DelayedEvent) -> None:
        room = await self._rooms.get(delayed.room_id)
        user_id = UserID(delayed.user_id)
        draft = Draft(user_id, delayed.type, orjson.loads(delayed.content), delayed.state_key)
        txn = ClientTxn(user_id, delayed.device_id, "delayed", delayed.delay_id)
        await self._writer.send(room, draft, txn)
        await self._forget(delayed)

    async def _forget(self, delayed: DelayedEvent) -> None:
        tx = Transaction()
        storage.delete_delayed(tx, delayed.delay_id)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            log.debug("a delayed event was already gone")

    async def _commit(self, tx: Transaction) -> None:
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise _unknown() from None
        self._changed.set()

    async def _get(self, delay_id: str) -> DelayedEvent:
        delayed = await storage.find_delayed(self._db, delay_id)
        if delayed is None or await self._is_overtaken(delayed):
            raise _unknown()
        return delayed

    async def _is_overtaken(self, delayed: DelayedEvent) -> bool:
        """Whether another user has set the same state meanwhile."""
        if delayed.state_key is None:
            return False
        room = await self._rooms.find(delayed.room_id)
        current = None if room is None else await room.state_event(delayed.type, delayed.state_key)
        if current is None or current.pdu.sender == delayed.user_id:
            return False
        event = (await stored_events.events_by_nid(self._db, [current.nid]))[current.nid]
        return event.pos > delayed.pos


def _unknown() -> NotFound:
    return NotFound("There is no such delayed event")


def _shown(delayed: DelayedEvent) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "delay_id": delayed.delay_id,
        "room_id": delayed.room_id,
        "type": delayed.type,
        "delay_ms": delayed.delay_ms,
        "delayed_since_ts": delayed.since_ms,
        "content": orjson.Fragment(delayed.content),
        # The names before they were changed in the proposal; clients in use read these.
        "delay": delayed.delay_ms,
        "running_since": delayed.since_ms,
    }
    if delayed.state_key is not None:
        shown["state_key"] = delayed.state_key
    return shown
