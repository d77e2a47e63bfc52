"""Recording accepted events: their rows, their places in the state log, the current line.

What the writer of our own events and the receiver of other servers' events share. A batch is one
job: events built on one another, which become durable, and visible, together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from yizhan_database import Commit, Database, Pos, Transaction
from yizhan_server.protocol.errors import Forbidden
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.hashes import reference_hash
from yizhan_server.protocol.identifiers import EventID, server_name_of
from yizhan_server.rooms.merging import Resolver, merge
from yizhan_server.rooms.push_evaluation import PushEvaluation
from yizhan_server.rooms.redactions import RedactionTarget
from yizhan_server.rooms.room import Head, Room, StateChanges, StateEvent
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import point_after, point_of_merge
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import push_exceptions as stored_exceptions
from yizhan_server.storage import room_servers as stored_servers
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import LOCAL, Relation, StoredEvent
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.rooms import Extremity
from yizhan_server.storage.state import REMOVED, Point, StateKey
from yizhan_server.streams import Stream

ANSWER_FIRST_S = 0.01
"""Seconds that the long polls of an event's own sender wait longer than everybody else's.

The sender's client gets its answer first: matrix-js-sdk cannot pair the copy of a thread's event
that /sync brings before the answer to /send does, and shows the message as failed.
"""


@dataclass(slots=True)
class Batch:
    """Events of one job, built on one another."""

    room: Room
    tx: Transaction
    head: Head
    point: Point
    """The place of the state after everything built so far."""
    is_line_head: bool | None = None
    """Whether `point` ends its line; None where only the database knows."""
    event_ids: list[EventID] = field(default_factory=list)
    changes: StateChanges = field(default_factory=dict)
    written: list[tuple[Pos, StoredEvent]] = field(default_factory=list)
    redacted: list[tuple[str, StateKey | None]] = field(default_factory=list)
    waiting_redactions: set[str] = field(default_factory=set)
    """What the batch's own redactions name that is not here yet."""
    hashes: dict[EventID, bytes] = field(default_factory=dict)
    """Reference hashes of the batch's own events, in the room versions that need them."""

    async def state_event(self, key: StateKey) -> StateEvent | None:
        """Return the state event of a key after everything built so far."""
        if key in self.changes:
            return self.changes[key]
        return await self.room.tail_state_event(key)

    async def find_event(self, db: Database, event_id: str) -> StoredEvent | None:
        """Return an event of the batch, which need not be durable, or of the database."""
        for _, stored in reversed(self.written):
            if stored.event_id == event_id:
                return stored
        found = await stored_events.find_event(db, event_id)
        return None if found is None else found[1]


class Recorder:
    """Records events of every origin."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        keys: StateKeys,
        numbers: Numbers,
        push: PushEvaluation,
        resolver: Resolver,
    ) -> None:
        self._db = db
        self._stream = stream
        self._keys = keys
        self._numbers = numbers
        self._push = push
        self._resolver = resolver

    async def begin(self, room: Room) -> Batch:
        """Return an empty batch at the end of what is built. Hold the room's lock.

        Where the room has forked, it continues the merged state; what is built must be durable
        for that, and in rooms of versions 1 and 2, and is waited for: GuardFailed or
        DatabaseUnavailable when it fails.
        """
        extremities = room.tail.extremities
        if not extremities:
            raise Forbidden("This server is not in the room")
        points = [Point(each.line, each.seq) for each in extremities]
        batch = Batch(room, Transaction(room.lane), room.tail, points[0])
        if room.version.references_carry_hashes:
            # The ends are read again, to be referred to by their hashes.
            await settled(room)
        if len(points) > 1:
            await settled(room)
            merged = await merge(self._resolver, room, points)
            batch.point = await point_of_merge(self._db, self._numbers, batch.tx, room.nid, merged)
            batch.is_line_head = bool(merged.changes) or await self._is_line_head(batch.point)
        elif room.line_head == batch.point:
            batch.is_line_head = True
        else:
            # Resolution may have returned to an earlier place, or something that is no end has
            # continued the line. Who took it for its head would never write state here again.
            await settled(room)
            batch.is_line_head = await self._is_line_head(batch.point)
        return batch

    async def _is_line_head(self, point: Point) -> bool:
        head, _ = await stored_state.line_head(self._db, point.line)
        return head == point.seq

    async def record(
        self,
        batch: Batch,
        pdu: Pdu,
        *,
        flags: int = LOCAL,
        target: RedactionTarget | None = None,
        nid: int | None = None,
        is_stored: bool = False,
    ) -> None:
        """Record an authorised event that follows the batch's head, and becomes the head.

        `target` is what a redaction prunes or will prune. With `is_stored` there is an event of
        number `nid` already, without a position.
        """
        if nid is None:
            nid = await self._numbers.next("event")
        key_nid = None
        if pdu.state_key is not None:
            key_nid = await self._keys.intern(batch.tx, pdu.key)
            batch.point = await point_after(
                self._db, self._numbers, batch.tx, batch.room.nid, batch.point,
                is_line_head=batch.is_line_head,
            )  # fmt: skip
            batch.is_line_head = True
            stored_state.append_state(batch.tx, batch.point, {key_nid: nid})
        changes: StateChanges = {}
        if pdu.state_key is not None:
            changes[pdu.key] = StateEvent(nid, pdu)
        head = (Extremity(nid, pdu.event_id, pdu.depth, batch.point.line, batch.point.seq),)
        await self._show(
            batch, pdu, nid, batch.point, changes, flags=flags, target=target, is_stored=is_stored
        )
        batch.head = Head(head, batch.head.ver)

    async def place(
        self,
        batch: Batch,
        pdu: Pdu,
        nid: int,
        point: Point,
        changes: StateChanges,
        extremities: tuple[Extremity, ...],
        *,
        flags: int,
        target: RedactionTarget | None,
        is_stored: bool = True,
    ) -> None:
        """Give an event beside the head its position; it changes the current state so.

        `extremities` are the room's from now on. After an event that changes any of the states of
        which the room is resolved, nothing else can be recorded in this batch.
        """
        await self._show(
            batch, pdu, nid, point, changes, flags=flags, target=target, is_stored=is_stored
        )
        batch.head = Head(extremities, batch.head.ver)

    async def _show(
        self,
        batch: Batch,
        pdu: Pdu,
        nid: int,
        point: Point,
        changes: StateChanges,
        *,
        flags: int,
        target: RedactionTarget | None,
        is_stored: bool,
    ) -> None:
        """Record that an event is live, and what it changes of the current state."""
        room, tx = batch.room, batch.tx
        relation = await self._relation(batch, pdu)
        judged, exceptions = await self._push.judge(room, pdu, batch.state_event)
        flags |= judged
        if target is not None and target.event is not None:
            stored_events.mark_redacted(tx, target.event.nid)
            batch.redacted.append((target.event.event_id, target.state_key))
        pos = tx.position()
        client, rest = stored_events.split_pdu(pdu)
        if is_stored:
            stored_events.place_event(
                tx, nid=nid, pos=pos, line=point.line, seq=point.seq, flags=flags
            )
        else:
            stored_events.append_event(
                tx, nid=nid, room=room.nid, pos=pos, pdu=pdu, line=point.line, seq=point.seq,
                relation=relation, flags=flags, client=client, rest=rest,
            )  # fmt: skip
        if target is not None:
            stored_events.append_redaction(
                tx, target=target.event_id, event=nid, applied=target.event is not None
            )
            if target.event is None:
                batch.waiting_redactions.add(target.event_id)
        await self._change_current_state(batch, pdu, nid, pos, changes)
        stored_exceptions.append_exceptions(tx, room.nid, pos, exceptions)
        if room.version.references_carry_hashes:
            batch.hashes[pdu.event_id] = reference_hash(pdu.raw, room.version)
        batch.event_ids.append(pdu.event_id)
        stored = StoredEvent(
            nid, pdu.event_id, 0, pdu.depth, pdu.type, pdu.sender, pdu.state_key,
            pdu.origin_server_ts, point.line, point.seq, relation.thread, relation.rel_type,
            relation.rel_to, flags, client,
        )  # fmt: skip
        batch.written.append((pos, stored))

    async def _change_current_state(
        self, batch: Batch, cause: Pdu, nid: int, pos: Pos, changes: StateChanges
    ) -> None:
        """Record what an event at `pos` makes of the current line and of the memberships."""
        numbers: dict[int, int] = {}
        for key, event in changes.items():
            number = await self._keys.intern(batch.tx, key)
            numbers[number] = REMOVED if event is None else event.nid
        if numbers:
            stored_state.append_current_state(batch.tx, batch.room.nid, pos, numbers)
        for key, event in changes.items():
            if key[0] == "m.room.member":
                before = await batch.state_event(key)
                self._change_membership(batch, key[1], before, event, cause, nid, pos)
        batch.changes.update(changes)

    def _change_membership(
        self,
        batch: Batch,
        user_id: str,
        before: StateEvent | None,
        event: StateEvent | None,
        cause: Pdu,
        nid: int,
        pos: Pos,
    ) -> None:
        """Record a user's membership, and which servers are in the room with it."""
        room, tx = batch.room, batch.tx
        membership = (None if event is None else event.pdu.membership) or "leave"
        stored_rooms.replace_membership(
            tx, room=room.nid, user_id=user_id, membership=membership,
            sender=(cause if event is None else event.pdu).sender,
            event=nid if event is None else event.nid, pos=pos,
        )  # fmt: skip
        was_joined = before is not None and before.pdu.membership == "join"
        server = server_name_of(user_id)
        if server is None or was_joined == (membership == "join"):
            return
        if was_joined:
            stored_servers.delete_member(tx, room.nid, server, pos)
        else:
            stored_servers.append_member(tx, room.nid, server, pos)

    async def _relation(self, batch: Batch, pdu: Pdu) -> Relation:
        """Read the relation; what relates to an event of a thread belongs to that thread.

        Spec: "Threading", receipts: reactions, edits and the like follow their target.
        """
        relation = stored_events.relation_of(pdu.content)
        if relation.rel_to is None or relation.thread is not None:
            return relation
        target = await batch.find_event(self._db, relation.rel_to)
        if target is None or target.thread is None:
            return relation
        return Relation(target.thread, relation.rel_type, relation.rel_to)

    def submit(
        self, batch: Batch, also: Callable[[Transaction], None] | None = None
    ) -> asyncio.Future[Commit]:
        """Enqueue the job of a batch; `also` adds to it. Hold the room's lock."""
        room, tx = batch.room, batch.tx
        head = Head(batch.head.extremities, batch.head.ver + 1)
        stored_rooms.advance_forward_extremities(tx, room.nid, batch.head.ver, head.extremities)
        if also is not None:
            also(tx)
        tx.after_commit(lambda commit: self._publish(batch, head, commit))
        done = self._db.submit(tx)
        room.enqueue(head, batch.changes, done, batch.point if batch.is_line_head else None)
        return done

    def _publish(self, batch: Batch, head: Head, commit: Commit) -> None:
        """Make a durable batch visible and wake those whom it concerns."""
        room = batch.room
        events = [replace(stored, pos=commit[pos]) for pos, stored in batch.written]
        room.commit(head, batch.changes, events)
        for event_id, state_key in batch.redacted:
            room.redacted(event_id, state_key)
        self._stream.publish(commit.positions[-1])
        waiting = self._stream.waiting()
        concerned = room.concerned(waiting) | {
            user_id for kind, user_id in batch.changes if kind == "m.room.member"
        }
        senders = concerned & {stored.sender for stored in events}
        self._stream.wake(concerned - senders)
        if senders & waiting:
            asyncio.get_running_loop().call_later(ANSWER_FIRST_S, self._stream.wake, senders)


async def settled(room: Room) -> None:
    """Wait until all that is built of a room is durable. Hold the room's lock."""
    if room.last_job is not None:
        await asyncio.shield(room.last_job)
