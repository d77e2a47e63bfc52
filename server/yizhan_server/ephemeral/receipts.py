"""Read receipts, public and private, threaded and not.

Spec: client-server API, "Receipts", "Fully read markers".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.accounts.own_change import record_own_change
from yizhan_server.clock import Clock
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.access import VisibleEvent
from yizhan_server.rooms.room import Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import receipts as stored_receipts
from yizhan_server.storage.account_data import upsert_account_datum
from yizhan_server.storage.events import StoredEvent
from yizhan_server.storage.receipts import UNTHREADED, StoredReceipt
from yizhan_server.streams import Stream

READ = "m.read"
PRIVATE = "m.read.private"
FULLY_READ = "m.fully_read"
MAIN = "main"

ReceiptContent = dict[str, dict[str, dict[str, Any]]]
"""Event id -> receipt type -> user -> details."""

Teller = Callable[[Room, StoredReceipt], None]
"""Is told that a public receipt has moved."""


class Receipts:
    """Moves receipts forward, and tells readers."""

    def __init__(self, db: Database, stream: Stream, clock: Clock, tell: Teller) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._tell = tell

    async def advance(self, read: VisibleEvent, kind: str, thread_id: str | None = None) -> None:
        """Move a receipt to an event; one that is already there or further stays."""
        if kind not in (READ, PRIVATE):
            raise InvalidParam("The receipt type must be m.read, m.read.private or m.fully_read")
        event, room, user_id = read.event, read.readable.room, read.readable.user_id
        if thread_id is not None:
            _check_thread(event, thread_id)
        receipt = StoredReceipt(
            user_id, kind, UNTHREADED if thread_id is None else thread_id, event.event_id,
            event.pos, self._clock.now_ms(),
        )  # fmt: skip
        if await self._advance(room, receipt) and kind == READ:
            self._tell(room, receipt)

    async def receive(
        self, room: Room, user_id: UserID, event_id: str, thread_id: str | None, ts_ms: int
    ) -> bool:
        """Move the public receipt of a user of another server, who is joined to the room.

        False for an event that is not here, or not shown. M_INVALID_PARAM for one that is in
        another room or thread.
        """
        found = await stored_events.find_event(self._db, event_id)
        if found is None or (found[0] == room.nid and not found[1].pos):
            return False
        if found[0] != room.nid:
            raise InvalidParam("The event is in another room")
        event = found[1]
        if thread_id is not None:
            _check_thread(event, thread_id)
        thread = UNTHREADED if thread_id is None else thread_id
        await self._advance(
            room, StoredReceipt(user_id, READ, thread, event.event_id, event.pos, ts_ms)
        )
        return True

    async def _advance(self, room: Room, receipt: StoredReceipt) -> bool:
        """Move a receipt, durably; False when it was there already or further."""
        tx = Transaction()
        pos = tx.position()
        stored_receipts.advance_receipt(tx, room.nid, receipt, pos)
        readers = {receipt.user_id} if receipt.type == PRIVATE else None

        def show(position: int) -> None:
            self._stream.publish(position)
            waiting = self._stream.waiting()
            self._stream.wake(room.concerned(waiting) if readers is None else readers)

        tx.after_commit(lambda commit: show(commit[pos]))
        try:
            await self._db.commit(tx)
        except GuardFailed:
            return False
        return True

    async def mark_fully_read(self, read: VisibleEvent) -> None:
        """Set the user's fully-read marker, which is account data of the room."""
        user_id, room_id = read.readable.user_id, read.readable.room.room_id
        tx = Transaction()
        pos = record_own_change(tx, self._stream, user_id)
        upsert_account_datum(
            tx, user_id, room_id, FULLY_READ,
            content=encode_canonical({"event_id": read.event.event_id}), pos=pos,
        )  # fmt: skip
        await self._db.commit(tx)

    async def changed(self, room: Room, reader: UserID, after: int, upto: int) -> ReceiptContent:
        """Return the content of the m.receipt event for (after, upto]; {} when nothing moved."""
        changed = await stored_receipts.receipts_changed(self._db, room.nid, after, upto)
        return make_receipt_content(changed, reader.__eq__)

    async def beside(self, room: Room, reader: UserID, first_pos: int, upto: int) -> ReceiptContent:
        """Return the content of the m.receipt event for events from `first_pos` on.

        The reader's own receipts are in it wherever they are.
        """
        found = await stored_receipts.receipts_beside(self._db, room.nid, first_pos, reader, upto)
        return make_receipt_content(found, reader.__eq__)

    async def rooms_read_by(self, user_id: UserID, after: int, upto: int) -> set[int]:
        """Return the rooms whose unread counts may have changed because this user read on."""
        return await stored_receipts.rooms_read_by(self._db, user_id, after, upto)

    async def rooms_changed(
        self, user_id: UserID, rooms: Collection[int], after: int, upto: int
    ) -> set[int]:
        """Return those of `rooms` where a receipt moved that the user may know of."""
        return await stored_receipts.rooms_with_receipts(self._db, rooms, user_id, after, upto)


def make_receipt_content(
    receipts: Iterable[StoredReceipt], sees_private_of: Callable[[str], bool]
) -> ReceiptContent:
    """Return the content of an m.receipt event, private ones only of whom the reader may see."""
    content: ReceiptContent = {}
    for receipt in receipts:
        if receipt.type == PRIVATE and not sees_private_of(receipt.user_id):
            continue
        details: dict[str, Any] = {"ts": receipt.ts_ms}
        if receipt.thread != UNTHREADED:
            details["thread_id"] = receipt.thread
        users = content.setdefault(receipt.event_id, {}).setdefault(receipt.type, {})
        # One event can hold one receipt of a user; the unthreaded one says the most.
        if receipt.user_id not in users or receipt.thread == UNTHREADED:
            users[receipt.user_id] = details
    return content


def _check_thread(event: StoredEvent, thread_id: str) -> None:
    """Answer M_INVALID_PARAM unless the event is in that thread."""
    if thread_id == MAIN:
        # The thread root belongs to the main timeline too.
        if event.thread is not None:
            raise InvalidParam("The event is in a thread, not in the main timeline")
    elif not thread_id or thread_id not in (event.thread, event.event_id):
        raise InvalidParam("The event is not in this thread")
