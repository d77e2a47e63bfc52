"""The only writer of events.

Under the room's lock: build (prev_events are the forward extremities, auth events come from
the Room), authorise, evaluate push rules, hash, sign, and *enqueue* one job; then, outside
the lock, await the commit. Nothing is acknowledged or shown before it is durable.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from yizhan_database import (
    Database,
    DatabaseUnavailable,
    GuardFailed,
    Lane,
    StatementRefused,
    Transaction,
)
from yizhan_server.clock import Clock
from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.auth_rules import check_auth
from yizhan_server.protocol.errors import (
    AuthRuleRejection,
    Forbidden,
    InvalidParam,
    MatrixError,
)
from yizhan_server.protocol.event import InvalidPdu, Pdu, build_pdu
from yizhan_server.protocol.hashes import reference_hash
from yizhan_server.protocol.identifiers import EventID, RoomID, ServerName, UserID
from yizhan_server.protocol.room_version import EventIdFormat, RoomVersion
from yizhan_server.protocol.signing import SigningKey
from yizhan_server.rooms.incoming.placing import Outcome, Placing
from yizhan_server.rooms.policy_servers import PolicyServers
from yizhan_server.rooms.power import StateSource
from yizhan_server.rooms.recording import Batch, Recorder
from yizhan_server.rooms.redactions import RedactionTarget, find_redaction_target
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import LOCAL
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.rooms import StoredRoom
from yizhan_server.storage.state import Point, StateKey

log = logging.getLogger(__name__)

FAILURES = (GuardFailed, DatabaseUnavailable, StatementRefused)

ATTEMPTS = 10
"""Times that a write is rebuilt after another worker moved the room's head first."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that somebody of this server wants to send."""

    sender: UserID
    type: str
    content: dict[str, Any]
    state_key: str | None = None
    redacts: str | None = None
    ts_ms: int | None = None
    """Only for application services, which may date their events."""


@dataclass(frozen=True, slots=True)
class ClientTxn:
    """A client's transaction id, which makes a request idempotent."""

    user_id: UserID
    device_id: str
    scope: str
    txn_id: str


class EventWriter:
    """Writes events of this server's users."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        rooms: Rooms,
        keys: StateKeys,
        numbers: Numbers,
        recorder: Recorder,
        placing: Placing,
        policies: PolicyServers,
        server_name: ServerName,
        signing_key: SigningKey,
    ) -> None:
        self._db = db
        self._clock = clock
        self._rooms = rooms
        self._keys = keys
        self._numbers = numbers
        self._recorder = recorder
        self._placing = placing
        self._policies = policies
        self._server_name = server_name
        self._signing_key = signing_key
        self._running: dict[ClientTxn, asyncio.Future[EventID]] = {}
        self._founded_ms = 0

    async def send(self, room: Room, draft: Draft, txn: ClientTxn | None = None) -> EventID:
        """Write one event and return its id once it is durable.

        With `txn`, the same transaction id always gets the same answer: also when the two
        requests run at the same time, and also after a restart.
        """
        if txn is None:
            return (await self.write(room, [draft]))[0]
        running = self._running.get(txn)
        if running is not None:
            return await asyncio.shield(running)
        answered = await stored_events.find_transaction(
            self._db, txn.user_id, txn.device_id, txn.scope, txn.txn_id
        )
        if answered is not None:
            return EventID(answered)
        if txn in self._running:
            return await asyncio.shield(self._running[txn])
        running = self._running[txn] = asyncio.get_running_loop().create_future()
        try:
            event_id = (await self.write(room, [draft], txn))[0]
        except BaseException as error:
            if not isinstance(error, Exception):
                running.cancel()
            else:
                running.set_exception(error)
                running.exception()  # retrieved: nobody else need be waiting
            raise
        else:
            running.set_result(event_id)
            return event_id
        finally:
            del self._running[txn]

    async def write(
        self,
        room: Room,
        drafts: Sequence[Draft],
        txn: ClientTxn | None = None,
        before: Callable[[Sequence[EventID]], Awaitable[None]] | None = None,
    ) -> list[EventID]:
        """Write events in one job and return their ids once they are durable.

        All of them or none; one after another where the room has a policy server. MatrixError when
        one is malformed, too large or not allowed. `before` is called with the ids when the events
        are built and allowed, and must end well before they are sent; the room waits, so it may do
        nothing slow.
        """
        if await self._policies.are_needed(room, drafts):
            return [await self._write_recommended(room, draft, txn, before) for draft in drafts]
        return await self._write_together(room, drafts, txn, before)

    async def _write_together(
        self,
        room: Room,
        drafts: Sequence[Draft],
        txn: ClientTxn | None,
        before: Callable[[Sequence[EventID]], Awaitable[None]] | None,
    ) -> list[EventID]:
        for _ in range(ATTEMPTS):
            async with room.lock:
                batch = await self._begin(room)
                if batch is None:
                    continue
                for draft in drafts:
                    await self._append(batch, draft)
                if batch.written and before is not None:
                    await before(batch.event_ids)
                lane = room.lane
                if batch.written:
                    done = self._recorder.submit(batch, self._remember(txn, batch.event_ids[-1]))
                elif room.last_job is not None:
                    # All of it is so already, or will be once what was built before is durable.
                    done = room.last_job
                else:
                    return batch.event_ids
            try:
                await asyncio.shield(done)
            except FAILURES as error:
                async with room.lock:
                    await self._begin_anew(room, lane)
                if not isinstance(error, GuardFailed):
                    raise
                if txn is not None and (answered := await self._answered(txn)) is not None:
                    return [answered]
                continue
            return batch.event_ids
        raise MatrixError(503, "M_UNKNOWN", "The room is too busy; try again")

    async def _write_recommended(
        self,
        room: Room,
        draft: Draft,
        txn: ClientTxn | None,
        before: Callable[[Sequence[EventID]], Awaitable[None]] | None,
    ) -> EventID:
        """Write an event that the room's policy server has to sign first.

        The room goes on meanwhile: what others say stands beside the event then.
        """
        for _ in range(ATTEMPTS):
            if await self._current(room.tail_state_event, draft) is not None:
                return (await self._write_together(room, [draft], txn, before))[0]
            pdu = await self._policies.recommended(room, await self.build(room, draft))
            if before is not None:
                await before([pdu.event_id])
            outcomes = await self._placing.place(
                room, [pdu], flags=LOCAL, also=self._remember(txn, pdu.event_id)
            )
            outcome = outcomes.get(pdu.event_id)
            if outcome is Outcome.ACCEPTED:
                return pdu.event_id
            if outcome in (Outcome.SOFT_FAILED, Outcome.REJECTED):
                raise Forbidden("The room no longer permits this event")
            # What it follows was undone, or the room has another policy server by now.
        raise MatrixError(503, "M_UNKNOWN", "The room is too busy; try again")

    async def build(self, room: Room, draft: Draft) -> Pdu:
        """Return a signed event that is allowed at the room's end, without recording it.

        For events that another server has to sign too, or that it will complete.
        """
        for _ in range(ATTEMPTS):
            async with room.lock:
                batch = await self._begin(room)
                if batch is not None:
                    pdu = await self._built(batch, draft)
                    await self._target(batch, pdu)
                    return pdu
        raise MatrixError(503, "M_UNKNOWN", "The room is too busy; try again")

    async def _begin(self, room: Room) -> Batch | None:
        """Return an empty batch; None when what it would continue has failed. Hold the lock."""
        lane = room.lane
        try:
            return await self._recorder.begin(room)
        except FAILURES as error:
            await self._begin_anew(room, lane)
            if not isinstance(error, GuardFailed):
                raise
            return None

    async def _begin_anew(self, room: Room, lane: Lane) -> None:
        self._keys.forget_pending()
        await room.reload(lane)

    def _remember(self, txn: ClientTxn | None, event_id: EventID) -> Callable[[Transaction], None]:
        """Return what puts the answer to a transaction id into the event's own job."""

        def append(tx: Transaction) -> None:
            if txn is not None:
                stored_events.append_transaction(
                    tx, user_id=txn.user_id, device_id=txn.device_id, scope=txn.scope,
                    txn_id=txn.txn_id, event_id=event_id, now_ms=self._clock.now_ms(),
                )  # fmt: skip

        return append

    def new_room_id(self) -> RoomID:
        """Return an id for a room whose version does not derive it from the create event."""
        return RoomID(f"!{secrets.token_urlsafe(13)}:{self._server_name}")

    async def found(
        self,
        version: RoomVersion,
        create: Draft,
        drafts: Sequence[Draft],
        room_id: RoomID | None = None,
    ) -> Room:
        """Make a room of its create event and further events, in one job.

        No policy server is asked, though one of this server's own name is in the room at once:
        there is nobody yet to be spared anything.

        `room_id` comes from `new_room_id`, for who must know it before.
        """
        if not version.room_id_is_create_hash and room_id is None:
            room_id = self.new_room_id()
        for _ in range(ATTEMPTS):
            # Where the create event's hash is the room's ID, two that somebody makes within a
            # millisecond would be the same room.
            self._founded_ms = max(self._clock.now_ms(), self._founded_ms + 1)
            pdu = self._build(
                version,
                type=create.type,
                sender=create.sender,
                state_key="",
                content=create.content,
                room_id=room_id,
                origin_server_ts=self._founded_ms,
                depth=1,
                prev_events=[],
                auth_events=[],
            )
            _check_auth(pdu, {}, version)
            try:
                return await self._found(version, pdu, drafts)
            except GuardFailed:
                # Another worker has made that room, or given a state key its number.
                self._keys.forget_pending()
        raise MatrixError(503, "M_UNKNOWN", "The server is too busy; try again")

    async def _found(self, version: RoomVersion, create: Pdu, drafts: Sequence[Draft]) -> Room:
        """Write a new room; GuardFailed when it has to be built again."""
        nid = await self._numbers.next("room")
        stored = StoredRoom(nid, create.room_id, version.identifier, (), 0)
        room = Room(self._db, self._keys, self._server_name, stored)
        async with room.lock:
            line = await self._numbers.next("state_line")
            tx = Transaction(room.lane)
            stored_rooms.create_room(tx, room.nid, room.room_id, version.identifier)
            stored_state.open_line(tx, line, room.nid, None, 0)
            batch = Batch(room, tx, room.tail, Point(line, 0), is_line_head=True)
            await self._recorder.record(batch, create)
            for draft in drafts:
                await self._append(batch, draft)
            done = self._recorder.submit(batch)
        await asyncio.shield(done)
        return self._rooms.add(room)

    async def _answered(self, txn: ClientTxn) -> EventID | None:
        found = await stored_events.find_transaction(
            self._db, txn.user_id, txn.device_id, txn.scope, txn.txn_id
        )
        return None if found is None else EventID(found)

    async def _append(self, batch: Batch, draft: Draft) -> None:
        """Build, authorise and record one event."""
        current = await self._current(batch.state_event, draft)
        if current is not None:
            batch.event_ids.append(current)
            return
        pdu = await self._built(batch, draft)
        await self._recorder.record(batch, pdu, target=await self._target(batch, pdu))

    async def _current(self, state: StateSource, draft: Draft) -> EventID | None:
        """Return the event that has set the state to what `draft` would: it changes nothing."""
        if draft.state_key is None:
            return None
        current = await state((draft.type, draft.state_key))
        if current is None or current.pdu.sender != draft.sender:
            return None
        return current.pdu.event_id if current.pdu.content == draft.content else None

    async def _target(self, batch: Batch, pdu: Pdu) -> RedactionTarget | None:
        """Return what an event of ours prunes, or answer why it may not."""
        if pdu.type != "m.room.redaction":
            return None
        return await find_redaction_target(self._db, batch.room, pdu, batch.state_event)

    async def _built(self, batch: Batch, draft: Draft) -> Pdu:
        """Return a signed event that follows the batch, and that the rules permit."""
        room = batch.room
        if (
            draft.type == "m.room.tombstone"
            and draft.content.get("replacement_room") == room.room_id
        ):
            raise InvalidParam("A room cannot be replaced by itself")
        auth_state: dict[StateKey, Pdu] = {}
        for key in auth_types_for_event(
            draft.type, draft.sender, draft.state_key, draft.content, room.version
        ):
            found = await batch.state_event(key)
            if found is not None:
                auth_state[key] = found.pdu
        extremities = batch.head.extremities
        pdu = self._build(
            room.version,
            type=draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            room_id=room.room_id,
            origin_server_ts=self._clock.now_ms() if draft.ts_ms is None else draft.ts_ms,
            depth=1 + max(extremity.depth for extremity in extremities),
            prev_events=[EventID(extremity.event_id) for extremity in extremities],
            auth_events=[event.event_id for event in auth_state.values()],
            redacts=None if draft.redacts is None else EventID(draft.redacts),
            reference_hashes=await self._reference_hashes(batch, auth_state.values()),
        )
        if room.version.room_id_is_create_hash:
            create = await batch.state_event(("m.room.create", ""))
            assert create is not None, "every room begins with its create event"
            auth_state["m.room.create", ""] = create.pdu
        _check_auth(pdu, auth_state, room.version)
        return pdu

    def _build(self, version: RoomVersion, **parts: Any) -> Pdu:
        """Make a PDU of ours; InvalidPdu becomes the client's error that it is."""
        event_id = None
        if version.event_id_format is EventIdFormat.FIELD:
            event_id = EventID(f"${secrets.token_urlsafe(18)}:{self._server_name}")
        try:
            return build_pdu(
                version,
                event_id=event_id,
                server_name=self._server_name,
                signing_key=self._signing_key,
                **parts,
            )
        except InvalidPdu as error:
            raise InvalidParam(str(error)) from None

    async def _reference_hashes(
        self, batch: Batch, auth_events: Iterable[Pdu]
    ) -> dict[EventID, bytes] | None:
        """Return what rooms of versions 1 and 2 state beside each reference; None for others."""
        version = batch.room.version
        if not version.references_carry_hashes:
            return None
        hashes = {pdu.event_id: reference_hash(pdu.raw, version) for pdu in auth_events}
        hashes |= batch.hashes
        missing = [e.nid for e in batch.head.extremities if EventID(e.event_id) not in hashes]
        for pdu in (await stored_events.pdus_by_nid(self._db, missing, version)).values():
            hashes[pdu.event_id] = reference_hash(pdu.raw, version)
        return hashes


def _check_auth(pdu: Pdu, auth_state: dict[StateKey, Pdu], version: RoomVersion) -> None:
    try:
        check_auth(pdu, auth_state, version)
    except AuthRuleRejection as rejection:
        raise Forbidden(rejection.reason) from None
