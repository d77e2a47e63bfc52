"""From the inbox to the skills: who said what, and everything that follows, in one transaction.

One row at a time, in the order of arrival. The row is read, decrypted and judged; the skill's
rows, its messages and the mark `done` are committed together, so that a crash before has no
effect and a crash after has it exactly once.

The actor of a command is the owner of the Megolm session that encrypted it. `sender`, the
relation, the time and the order are the homeserver's words.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from yizhan_bots.conversation import (
    Actor,
    Greeted,
    Incoming,
    Outgoing,
    PollAnswer,
    Reaction,
    Redacted,
    Skill,
    Standing,
    Text,
    Undecryptable,
)
from yizhan_bots.matrix.content import digest, find_answered, read_content
from yizhan_bots.matrix.http import Homeserver, Refusal, Unreachable, path
from yizhan_bots.matrix.keystore import SECOND_HAND, Decrypted, KeyStore, RoomKey
from yizhan_bots.matrix.machine import MEGOLM, KeyRequest, Machine
from yizhan_bots.matrix.sync import GREETED, VERIFICATION, new_txn_id
from yizhan_database import Database, DatabaseUnavailable, GuardFailed, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_bots.matrix.identities import Identities
    from yizhan_bots.matrix.rate import Rates
    from yizhan_bots.matrix.rooms import Rooms
    from yizhan_bots.matrix.verification import Verifications

log = logging.getLogger(__name__)

Json = dict[str, Any]

UNREADABLE_MS = 20_000
"""How long a missing room key is waited for before the sender is told."""

_SKILL_TRIES: Final = 3
_MOST_DELAY_MS: Final = 60_000

PUBLIC_STANDINGS: Final = frozenset({Standing.UNSIGNED_DEVICE, Standing.IDENTITY_CHANGED})

Content = Text | PollAnswer | Reaction | Redacted | Greeted | Undecryptable


@dataclass(frozen=True, slots=True)
class _Row:
    """One event of the inbox."""

    pos: int
    room_id: str
    event_id: str
    sender: str
    session_id: str | None
    event: Json
    state: str
    received_ms: int
    attempts: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """What an encrypted event turned out to say, and by whose session."""

    kind: str
    content: Json
    key: RoomKey
    message_index: int


class Deliver:
    """The one reader of the inbox."""

    def __init__(
        self,
        *,
        database: Database,
        homeserver: Homeserver,
        machine: Machine,
        keys: KeyStore,
        identities: Identities,
        rooms: Rooms,
        rates: Rates,
        verifications: Verifications,
        skill: Skill,
        on_queued: Callable[[], None],
        now_ms: Callable[[], int],
        unreadable_ms: int = UNREADABLE_MS,
    ) -> None:
        self._database = database
        self._homeserver = homeserver
        self._machine = machine
        self._keys = keys
        self._identities = identities
        self._rooms = rooms
        self._rates = rates
        self._verifications = verifications
        self._skill = skill
        self._on_queued = on_queued
        self._now_ms = now_ms
        self._unreadable_ms = unreadable_ms
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Have the inbox looked at now."""
        self._wake.set()

    async def load(self) -> None:
        """Remember which room keys were asked for before."""
        asked = await self._database.rows(
            "SELECT room_id, session_id, user_id, request_id FROM matrix_room_key_request"
        )
        for row in asked:
            request = KeyRequest(*row)
            self._machine.asked[request.room_id, request.session_id] = request

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._wake.clear()
            looked_ms = self._now_ms()
            if await self.step():
                continue
            next_due = await self._database.row(
                "SELECT min(due_ms) FROM inbox WHERE state IN ('new', 'waiting') AND due_ms >= ?",
                looked_ms,
            )
            due_ms = None if next_due is None else next_due[0]
            wait = 60.0 if due_ms is None else max(0.01, (due_ms - self._now_ms()) / 1000)
            try:
                async with asyncio.timeout(min(wait, 60.0)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def step(self) -> bool:
        """Deliver the oldest event that is due; False when there is none.

        Whoever has one that was put off waits with all others: what a person says keeps its
        order, and a server that does not tell its user's keys is asked once, not for each of them.
        """
        now_ms = self._now_ms()
        found = await self._database.row(
            """
            SELECT pos, room_id, event_id, sender, session_id, event, state, received_ms, attempts
            FROM inbox WHERE state IN ('new', 'waiting') AND due_ms <= ?
            AND sender NOT IN (SELECT sender FROM inbox WHERE state = 'new' AND due_ms > ?)
            ORDER BY pos LIMIT 1
            """,
            now_ms,
            now_ms,
        )
        if found is None:
            return False
        pos, room_id, event_id, sender, session_id, event, state, received_ms, attempts = found
        row = _Row(
            pos,
            room_id,
            event_id,
            sender,
            session_id,
            orjson.loads(event),
            state,
            received_ms,
            attempts,
        )
        try:
            await self._deliver(row)
        except (Unreachable, Refusal) as error:
            log.warning("event waits", extra={"event_id": row.event_id, "reason": str(error)})
            await self._postpone(row, min(1000 << min(row.attempts, 10), _MOST_DELAY_MS))
        except GuardFailed:
            await self._postpone(row, 0)  # something else was faster: judge anew
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("skill failed", extra={"event_id": row.event_id})
            if row.attempts + 1 < _SKILL_TRIES:
                await self._postpone(row, 1000)
            else:
                await self._finish(row, Transaction(), state="failed")
        return True

    async def _deliver(self, row: _Row) -> None:
        if row.state == "new" and row.event.get("type") != GREETED:
            wait_ms = self._rates.take(row.sender, self._now_ms())
            if wait_ms:
                await self._postpone(row, wait_ms, counts=False)
                return
        kind = row.event["type"]
        if kind == GREETED:
            await self._answer(row, Standing.UNENCRYPTED, None, Greeted())
        elif kind == "m.room.encrypted":
            await self._deliver_encrypted(row)
        elif kind == "m.room.redaction":
            await self._deliver_redaction(row)
        elif kind.startswith(VERIFICATION) or _is_verification_request(row.event["content"]):
            self._verify(row, kind, row.event["content"])
            await self._finish(row, Transaction())
        else:
            content = row.event["content"]
            said = read_content(kind, content, content.get("m.relates_to"))
            await self._answer(row, Standing.UNENCRYPTED, None, said, content)

    async def _deliver_encrypted(self, row: _Row) -> None:
        arrivals = self._machine.arrivals
        reading = await self._read(row)
        if reading is None:
            await self._wait_for_key(row, arrivals)
            return
        tx = Transaction()
        tx.execute(
            """
            INSERT INTO matrix_message_index (session_id, message_index, event_id)
            VALUES (?, ?, ?) ON CONFLICT (session_id, message_index) DO NOTHING
            """,
            reading.key.session_id,
            reading.message_index,
            row.event_id,
        )
        standing, actor = await self._judge(row, reading)
        if reading.kind.startswith(VERIFICATION) or _is_verification_request(reading.content):
            if standing not in {Standing.REPLAYED, Standing.SENDER_MISMATCH}:
                self._verify(row, reading.kind, reading.content)
            await self._finish(row, tx, standing=standing)
            return
        said = read_content(reading.kind, reading.content, row.event["content"].get("m.relates_to"))
        if isinstance(said, Reaction):
            said = None  # reactions are never encrypted: this is somebody's own invention
        await self._answer(row, standing, actor, said, reading.content, tx=tx)

    async def _deliver_redaction(self, row: _Row) -> None:
        target = row.event.get("redacts", row.event["content"].get("redacts"))
        tx = Transaction()
        found = await self._database.row(
            "SELECT sender, state FROM inbox WHERE room_id = ? AND event_id = ?",
            row.room_id,
            target if isinstance(target, str) else "",
        )
        if found is None:
            await self._finish(row, tx)
            return
        before = found[1] in {"new", "waiting"}
        if before:
            tx.execute(
                "UPDATE inbox SET state = 'cancelled', event = NULL"
                " WHERE room_id = ? AND event_id = ?",
                row.room_id,
                target,
            )
        if found[0] != row.sender:
            await self._finish(row, tx)  # a moderator's affair, not the author's wish
            return
        said = Redacted(target, before_execution=before)
        await self._answer(row, Standing.UNENCRYPTED, None, said, tx=tx)

    # --- reading ---

    async def _read(self, row: _Row) -> _Reading | None:
        content = row.event["content"]
        ciphertext = content.get("ciphertext")
        if content.get("algorithm") != MEGOLM or row.session_id is None:
            return None
        if not isinstance(ciphertext, str):
            return None
        fitting: list[tuple[RoomKey, Decrypted]] = []
        for key in await self._keys.find_room_keys(row.room_id, row.session_id):
            decrypted = self._keys.decrypt(key, ciphertext)
            if decrypted is not None:
                fitting.append((key, decrypted))
        if not fitting:
            return None
        # Whoever holds a key can pass it on as their own. Several claims name whom the
        # homeserver names, if that one is among them; the code in the text names the rest.
        fitting.sort(key=lambda pair: (pair[0].user_id != row.sender, pair[0].how == SECOND_HAND))
        key, decrypted = fitting[0]
        try:
            payload = orjson.loads(decrypted.plaintext)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(payload, dict) or payload.get("room_id") != row.room_id:
            return None
        kind, inner = payload.get("type"), payload.get("content")
        if not isinstance(kind, str) or not isinstance(inner, dict):
            return None
        return _Reading(kind, inner, key, decrypted.message_index)

    async def _wait_for_key(self, row: _Row, arrivals: int) -> None:
        deadline_ms = row.received_ms + self._unreadable_ms
        if self._now_ms() < deadline_ms:
            await self._ask_for_key(row)
            tx = Transaction()
            tx.execute(
                "UPDATE inbox SET state = 'waiting', due_ms = ? WHERE pos = ?",
                deadline_ms,
                row.pos,
            )
            await self._database.commit(tx)
            if self._machine.arrivals != arrivals:
                await self._postpone(row, 0)  # a key came while the row was not yet waiting
            return
        told = await self._database.row(
            "SELECT 1 FROM inbox WHERE room_id = ? AND session_id = ? AND standing = ?",
            row.room_id,
            row.session_id,
            "undecryptable",
        )
        if told is not None:
            await self._finish(row, Transaction(), state="failed")
            return
        await self._answer(row, Standing.UNENCRYPTED, None, Undecryptable())

    async def _ask_for_key(self, row: _Row) -> None:
        if row.session_id is None or (row.room_id, row.session_id) in self._machine.asked:
            return
        request = KeyRequest(row.room_id, row.session_id, row.sender, new_txn_id())
        tx = Transaction()
        tx.execute(
            """
            INSERT INTO matrix_room_key_request (room_id, session_id, user_id, request_id, asked_ms)
            VALUES (?, ?, ?, ?, ?) ON CONFLICT (room_id, session_id) DO NOTHING
            """,
            request.room_id,
            request.session_id,
            request.user_id,
            request.request_id,
            self._now_ms(),
        )
        await self._database.commit(tx)
        self._machine.asked[request.room_id, request.session_id] = request
        body = {
            "algorithm": MEGOLM,
            "room_id": request.room_id,
            "session_id": request.session_id,
            "sender_key": row.event["content"].get("sender_key", ""),
        }
        message = {
            "action": "request",
            "body": body,
            "request_id": request.request_id,
            "requesting_device_id": self._machine.device_id,
        }
        await self._homeserver.request(
            "PUT",
            path("v3", "sendToDevice", "m.room_key_request", request.request_id),
            {"messages": {request.user_id: {"*": message}}},
        )

    # --- judging ---

    async def _judge(self, row: _Row, reading: _Reading) -> tuple[Standing, Actor | None]:
        """Say whose word this is. Each line below refuses one thing that a homeserver can do."""
        key = reading.key
        if key.user_id != row.sender:
            return Standing.SENDER_MISMATCH, None
        seen = await self._database.row(
            "SELECT event_id FROM matrix_message_index WHERE session_id = ? AND message_index = ?",
            key.session_id,
            reading.message_index,
        )
        if seen is not None and seen[0] != row.event_id:
            return Standing.REPLAYED, None
        if key.how == SECOND_HAND:
            return Standing.SECOND_HAND_KEY, None
        person = await self._identities.get(row.sender)
        if person.changed:
            return Standing.IDENTITY_CHANGED, None
        device = person.identity.find_device(key.sender_key, key.ed25519)
        if device is None or person.pinned is None or not person.counts(device):
            return Standing.UNSIGNED_DEVICE, None
        actor = Actor(row.sender, person.pinned, device.device_id, device.ed25519)
        return Standing.VERIFIED, actor

    async def _find_key(self, room_id: str, event_id: str) -> str | None:
        """Return the key under which we sent that event, if we did and it has one."""
        found = await self._database.row(
            "SELECT name FROM outbox_key WHERE event_id = ? AND room_id = ?", event_id, room_id
        )
        return None if found is None else found[0]

    def _verify(self, row: _Row, kind: str, content: Json) -> None:
        relation = row.event["content"].get("m.relates_to")
        self._verifications.take_from_room(
            row.room_id,
            row.event_id,
            row.sender,
            kind,
            content if relation is None else content | {"m.relates_to": relation},
        )

    # --- answering ---

    async def _answer(
        self,
        row: _Row,
        standing: Standing,
        actor: Actor | None,
        said: Content | None,
        content: Json | None = None,
        *,
        tx: Transaction | None = None,
    ) -> None:
        tx = tx or Transaction()
        room = self._rooms.find(row.room_id)
        if said is None or room is None:
            await self._finish(row, tx, standing=standing)
            return
        sent_ms = row.event.get("origin_server_ts")
        answered = find_answered(row.event.get("content", {}).get("m.relates_to"))
        incoming = Incoming(
            event_id=row.event_id,
            room_id=row.room_id,
            sender=row.sender,
            standing=standing,
            actor=actor,
            content=said,
            direct=self._rooms.find_person(room) == row.sender,
            encrypted_room=room.encrypted,
            sent_ms=sent_ms if isinstance(sent_ms, int) else 0,
            received_ms=row.received_ms,
            digest="" if content is None else digest(content),
            attached_to=None if answered is None else await self._find_key(row.room_id, answered),
        )
        answer = await self._skill.answer(incoming, tx)
        for message in [] if answer is None else answer.messages:
            queue(tx, message, public=_is_public(incoming, message))
        told = "undecryptable" if isinstance(said, Undecryptable) else standing.value
        await self._finish(row, tx, standing=told, said_digest=incoming.digest)
        self._on_queued()

    async def _finish(
        self,
        row: _Row,
        tx: Transaction,
        *,
        state: str = "done",
        standing: Standing | str | None = None,
        said_digest: str = "",
    ) -> None:
        # What was said is erased; that it was, and how it was judged, stays on the record.
        tx.execute(
            "UPDATE inbox SET state = ?, standing = ?, digest = ?, event = NULL WHERE pos = ?",
            state,
            standing.value if isinstance(standing, Standing) else standing,
            said_digest,
            row.pos,
        )
        await self._database.commit(tx)

    async def _postpone(self, row: _Row, wait_ms: int, *, counts: bool = True) -> None:
        tx = Transaction()
        tx.execute(
            "UPDATE inbox SET due_ms = ?, attempts = attempts + ? WHERE pos = ?",
            self._now_ms() + wait_ms,
            int(counts),
            row.pos,
        )
        await self._database.commit(tx)


def queue(tx: Transaction, message: Outgoing, *, public: bool) -> None:
    """Record a message of ours in the outbox; its transaction ids are fixed here, for ever."""
    if (message.room_id is None) == (message.direct_to is None):
        raise ValueError("exactly one of room_id and direct_to must be set")
    for part in ("text", "poll") if message.poll else ("text",):
        tx.execute(
            """
            INSERT INTO outbox
              (pos, txn_id, room_id, direct_to, part, message, public, state, due_ms, attempts)
            VALUES (?, ?, ?, ?, ?, ?, ?, 'due', 0, 0)
            """,
            tx.position(),
            new_txn_id(),
            message.room_id,
            message.direct_to,
            part,
            msgspec.json.encode(message),
            int(public),
        )


def _is_public(incoming: Incoming, message: Outgoing) -> bool:
    to_the_sender = incoming.direct and message.room_id == incoming.room_id
    unread = isinstance(incoming.content, Undecryptable)
    return to_the_sender and (unread or incoming.standing in PUBLIC_STANDINGS)


def _is_verification_request(content: Json) -> bool:
    return content.get("msgtype") == f"{VERIFICATION}request"
