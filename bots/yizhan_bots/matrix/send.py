"""From the outbox to the rooms: in order within a room, each message once.

The transaction id of a message is fixed when it is recorded. A crash between sending and
marking sends it again under the same id, and the homeserver answers with the event it has.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from yizhan_bots.conversation import Outgoing
from yizhan_bots.matrix.content import POLL_START, message_content, poll_content
from yizhan_bots.matrix.http import Homeserver, Refusal, Unreachable, path
from yizhan_database import Database, DatabaseUnavailable, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_bots.matrix.rooms import Room, Rooms
    from yizhan_bots.matrix.sharing import Sharing
    from yizhan_database import Row

log = logging.getLogger(__name__)

Json = dict[str, Any]

_BATCH = 100
_MOST_DELAY_MS = 300_000
_MOST_TRIES = 8
"""After so many failures of our own (not of the network) a message is given up."""
_LONGEST_SLEEP_S = 60.0


@dataclass(frozen=True, slots=True)
class _Row:
    """One part of a message of ours."""

    pos: int
    txn_id: str
    room_id: str | None
    direct_to: str | None
    part: str
    message: Outgoing
    public: bool
    attempts: int


class Send:
    """The one reader of the outbox."""

    def __init__(
        self,
        *,
        database: Database,
        homeserver: Homeserver,
        rooms: Rooms,
        sharing: Sharing,
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._homeserver = homeserver
        self._rooms = rooms
        self._sharing = sharing
        self._now_ms = now_ms
        self._wake = asyncio.Event()
        self._made: dict[str, str] = {}
        """Direct rooms just made, until /sync shows them."""

    def wake(self) -> None:
        """Have the outbox looked at now."""
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            self._wake.clear()
            wait_ms = await self.step()
            try:
                async with asyncio.timeout(min(wait_ms / 1000, _LONGEST_SLEEP_S)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def step(self) -> int:
        """Send all that can be sent; returns the milliseconds until more can."""
        held: set[str] = set()
        after, wait_ms = 0, int(_LONGEST_SLEEP_S * 1000)
        while True:
            rows = await self._database.rows(
                """
                SELECT pos, txn_id, room_id, direct_to, part, message, public, attempts, due_ms
                FROM outbox WHERE state = 'due' AND pos > ? ORDER BY pos LIMIT ?
                """,
                after,
                _BATCH,
            )
            for found in rows:
                after = found[0]
                place = found[2] or found[3]
                if place in held:
                    continue  # an earlier message of that room waits: the order must stay
                left_ms = int(found[8]) - self._now_ms()
                if left_ms <= 0:
                    left_ms = await self._try(_read_row(found))
                if left_ms:
                    held.add(place)
                    wait_ms = min(wait_ms, left_ms)
            if len(rows) < _BATCH:
                return wait_ms

    async def _try(self, row: _Row) -> int:
        """Send one part; 0 when that is settled, else the milliseconds to wait."""
        try:
            room = await self._find_room(row)
            if room is None:
                return int(_LONGEST_SLEEP_S * 1000)  # `wake` comes with the next sync
            edited = await self._find_event(room, row.message.edits)
            event_id = await self._put(row, room, edited)
        except Unreachable as error:
            return await self._postpone(row, str(error))
        except Refusal as refusal:
            if refusal.temporary:
                return await self._postpone(row, str(refusal))
            fields = {"pos": row.pos, "reason": str(refusal)}
            log.error("message refused", extra=fields)  # noqa: TRY400 - no bug, no traceback
            await self._settle(row, "failed")
            return 0
        except DatabaseUnavailable:
            raise
        except Exception:
            # One message that cannot be rendered or encrypted must not silence all others.
            log.exception("message failed", extra={"pos": row.pos})
            if row.attempts < _MOST_TRIES:
                return await self._postpone(row, "failed")
            await self._settle(row, "failed")
            return 0
        # An edit that found no card to replace is the card from now on.
        name = row.message.key or (row.message.edits if edited is None else None)
        await self._settle(row, "sent", room_id=room.room_id, event_id=event_id, name=name)
        return 0

    async def _find_room(self, row: _Row) -> Room | None:
        if row.direct_to is None:
            room = self._rooms.find(row.room_id or "")
            if room is None:
                raise Refusal(404, "M_NOT_FOUND", "the bot is not in the room", {})
            return room
        person = row.direct_to
        room = self._rooms.find_direct_room(person)
        made = self._rooms.find(self._made.get(person, ""))
        if room is not None:
            self._made.pop(person, None)
        elif person not in self._made:
            self._made[person] = await self._make_direct_room(person)
        elif made is not None and made.has_left(person):
            del self._made[person]
            raise Refusal(403, "M_FORBIDDEN", "the person does not want to be written to", {})
        return room

    async def _make_direct_room(self, user_id: str) -> str:
        answer = await self._homeserver.request(
            "POST",
            "v3/createRoom",
            {
                "preset": "trusted_private_chat",
                "is_direct": True,
                "invite": [user_id],
                "initial_state": [
                    {
                        "type": "m.room.encryption",
                        "state_key": "",
                        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
                    }
                ],
            },
        )
        return str(answer["room_id"])

    async def _put(self, row: _Row, room: Room, edited: str | None) -> str:
        message = row.message
        if row.part == "poll":
            kind, content = POLL_START, poll_content(message)
        else:
            thread = await self._find_event(room, message.thread)
            kind = "m.room.message"
            content = message_content(message, edited=edited, thread=thread)
        if room.encrypted:
            content = await self._sharing.encrypt(room, kind, content, public=row.public)
            kind = "m.room.encrypted"
        where = path("v3", "rooms", room.room_id, "send", kind, row.txn_id)
        answer = await self._homeserver.request("PUT", where, content)
        return str(answer["event_id"])

    async def _find_event(self, room: Room, name: str | None) -> str | None:
        if name is None:
            return None
        row = await self._database.row(
            "SELECT event_id FROM outbox_key WHERE room_id = ? AND name = ? AND part = 'text'",
            room.room_id,
            name,
        )
        return None if row is None else row[0]

    async def _settle(
        self,
        row: _Row,
        state: str,
        *,
        room_id: str | None = None,
        event_id: str | None = None,
        name: str | None = None,
    ) -> None:
        tx = Transaction()
        tx.execute(
            "UPDATE outbox SET state = ?, event_id = ?, message = NULL WHERE pos = ?",
            state,
            event_id,
            row.pos,
        )
        if name is not None and room_id is not None and event_id is not None:
            tx.execute(
                """
                INSERT INTO outbox_key (room_id, name, part, event_id) VALUES (?, ?, ?, ?)
                ON CONFLICT (room_id, name, part) DO UPDATE SET event_id = excluded.event_id
                """,
                room_id,
                name,
                row.part,
                event_id,
            )
        await self._database.commit(tx)

    async def _postpone(self, row: _Row, reason: str) -> int:
        wait_ms: int = min(500 << min(row.attempts, 20), _MOST_DELAY_MS)
        log.warning("message waits", extra={"pos": row.pos, "reason": reason})
        tx = Transaction()
        tx.execute(
            "UPDATE outbox SET attempts = attempts + 1, due_ms = ? WHERE pos = ?",
            self._now_ms() + wait_ms,
            row.pos,
        )
        await self._database.commit(tx)
        return wait_ms


def _read_row(found: Row) -> _Row:
    pos, txn_id, room_id, direct_to, part, message, public, attempts, _ = found
    outgoing = msgspec.json.decode(message, type=Outgoing)
    return _Row(pos, txn_id, room_id, direct_to, part, outgoing, bool(public), attempts)
