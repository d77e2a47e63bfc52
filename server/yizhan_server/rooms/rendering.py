"""From stored bytes to what one reader is given: `unsigned` is added here, per reader.

The stored `client` bytes are spliced, not parsed, except for redacted events, whose pruned form
is made for the reader: the original stays until the retention time is over.

Spec: client-server API, "Room event format", "Redactions", "Aggregations of child events".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from msgspec.structs import replace

from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.protocol.canonical_json import encode_any, parse_any
from yizhan_server.protocol.event import redact_pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.redaction import redact
from yizhan_server.rooms.access import ReadableRoom, RoomAccess
from yizhan_server.rooms.room import Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REDACTED, StoredEvent


class Aggregations(Protocol):
    """Makes the `m.relations` of events: edits, thread summaries, references."""

    async def bundle(
        self, readable: ReadableRoom, events: Sequence[StoredEvent]
    ) -> Mapping[str, dict[str, Any]]:
        """Return `m.relations` by event id, for those of `events` that have any."""
        ...


@dataclass(frozen=True, slots=True)
class Reader:
    """To whom events are rendered: one device of a user, in a room that the user may read."""

    readable: ReadableRoom
    device_id: str | None
    as_pdus: bool = False
    """Events are wanted as servers exchange them. Spec: "Filtering", `event_format`."""

    @property
    def room(self) -> Room:
        """The room that is read."""
        return self.readable.room

    @property
    def user_id(self) -> UserID:
        """Who reads."""
        return self.readable.user_id


PAGE = 500
"""State events whose predecessors are looked up in one statement."""


class EventRenderer:
    """Renders events of one room for one reader."""

    def __init__(
        self, db: Database, clock: Clock, access: RoomAccess, aggregations: Aggregations
    ) -> None:
        self._db = db
        self._clock = clock
        self._access = access
        self._aggregations = aggregations

    async def render(
        self, reader: Reader, events: Sequence[StoredEvent], *, bundle: bool = True
    ) -> list[bytes]:
        """Return the JSON of each event, in order."""
        if not events:
            return []
        memberships = await self._access.membership_at(reader.readable, events)
        events = await self._access.without_erased(events, memberships)
        if reader.as_pdus:
            return await self._render_pdus(reader.room, events)
        now_ms = self._clock.now_ms()
        own = [event.event_id for event in events if event.sender == reader.user_id]
        txn_ids: dict[str, str] = {}
        if own and reader.device_id is not None:
            txn_ids = await stored_events.transaction_ids(
                self._db, reader.user_id, reader.device_id, own
            )
        redacted = [event.event_id for event in events if event.flags & REDACTED]
        redactions = await self._redactions(reader, redacted) if redacted else {}
        relations = await self._aggregations.bundle(reader.readable, events) if bundle else {}
        previous = await self._previous(events)
        rendered = []
        for event, membership in zip(events, memberships, strict=True):
            unsigned: dict[str, Any] = {
                "age": max(0, now_ms - event.ts_ms), "membership": membership
            }  # fmt: skip
            if event.event_id in txn_ids:
                unsigned["transaction_id"] = txn_ids[event.event_id]
            if event.event_id in redactions:
                redaction = redactions[event.event_id]
                # Gone from the specification; older clients look only whether it is there.
                unsigned["redacted_by"] = redaction.event_id
                unsigned["redacted_because"] = orjson.Fragment(event_bytes(redaction, reader.room))
            if event.event_id in relations:
                unsigned["m.relations"] = relations[event.event_id]
            unsigned |= previous.get(event.nid, {})
            rendered.append(splice(event_bytes(event, reader.room), unsigned))
        return rendered

    async def _render_pdus(self, room: Room, events: Sequence[StoredEvent]) -> list[bytes]:
        pdus = await stored_events.pdus_by_nid(
            self._db, [event.nid for event in events], room.version
        )
        rendered = []
        for event in events:
            # Also what only this reader is to see pruned.
            redacted = event.flags & REDACTED
            pdu = redact_pdu(pdus[event.nid], room.version) if redacted else pdus[event.nid]
            named = {**pdu.raw, "event_id": event.event_id, "room_id": room.room_id}
            rendered.append(encode_any(named))
        return rendered

    async def render_plain(
        self, room: Room, events: Sequence[StoredEvent], *, with_previous: bool = False
    ) -> list[bytes]:
        """Return the JSON of each event without anything that depends on the reader."""
        now_ms = self._clock.now_ms()
        previous = await self._previous(events) if with_previous else {}
        rendered = []
        for event in events:
            unsigned: dict[str, Any] = {"age": max(0, now_ms - event.ts_ms)}
            unsigned |= previous.get(event.nid, {})
            rendered.append(splice(event_bytes(event, room), unsigned))
        return rendered

    async def _redactions(self, reader: Reader, event_ids: list[str]) -> dict[str, StoredEvent]:
        """Return the redaction of each redacted event; without its reason where it is unseen."""
        by_event = await stored_events.applied_redactions(self._db, event_ids)
        known = await stored_events.events_by_nid(self._db, list(by_event.values()))
        seen = {
            event.nid for event in await self._access.visible(reader.readable, list(known.values()))
        }
        return {
            event_id: event
            if (event := known[nid]).nid in seen
            else replace(event, flags=event.flags | REDACTED)
            for event_id, nid in by_event.items()
            if nid in known
        }

    async def _previous(self, events: Sequence[StoredEvent]) -> dict[int, dict[str, Any]]:
        """Return what is said of the event that each state event replaced."""
        nids = [event.nid for event in events if event.state_key is not None]
        redacted = {event.nid for event in events if event.flags & REDACTED}
        replaced: dict[int, int] = {}
        for start in range(0, len(nids), PAGE):
            replaced |= await stored_state.replaced_events(self._db, nids[start : start + PAGE])
        found = await stored_events.events_by_nid(self._db, list(set(replaced.values())))
        said: dict[int, dict[str, Any]] = {}
        for nid, before in replaced.items():
            if before not in found:
                continue
            event = found[before]
            said[nid] = {"replaces_state": event.event_id}
            # Redaction leaves nothing beside an event; and what its sender had erased, or what
            # was redacted itself, is not told that way either.
            if nid not in redacted and not event.flags & REDACTED:
                said[nid] |= {"prev_content": event.content, "prev_sender": event.sender}
        return said


def event_bytes(event: StoredEvent, room: Room) -> bytes:
    """Return the JSON that every reader may see, without `unsigned`."""
    pruned = event.flags & REDACTED
    if not pruned and event.type != "m.room.redaction":
        return event.client
    parsed = parse_any(event.client)
    if pruned:
        kept = redact(parsed, room.version)
        kept["event_id"], kept["room_id"] = event.event_id, room.room_id
        return encode_any(kept)
    # The target stands in one place of the event and is shown to clients in both.
    target = parsed["content"].get("redacts") or parsed.get("redacts")
    if isinstance(target, str):
        parsed["redacts"] = target
        parsed["content"]["redacts"] = target
    return encode_any(parsed)


def splice(event: bytes, unsigned: Mapping[str, Any]) -> bytes:
    """Return the JSON object `event` with `unsigned` appended."""
    return event[:-1] + b',"unsigned":' + orjson.dumps(unsigned) + b"}"
