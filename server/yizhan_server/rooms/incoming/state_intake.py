"""Taking the state of a room as another server tells it: thousands of events, a portion at a time.

Only the bytes of the answer are in memory as a whole; what has been parsed of it is dropped with
its portion, and others get their turn between two portions. Each portion is durable before the
next one is begun, and what is here already is neither verified nor stored again: after a crash, or
when a server tells the same once more, it goes on from there.

Spec: server-server API, "Joining Rooms"; "Checks performed on receipt of a PDU", 1 to 4.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from yizhan_database import Database
from yizhan_server.federation_client.answers import RawPdu
from yizhan_server.federation_client.event_signatures import claimed_key_ids
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, RoomID, ServerName, server_name_of
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.incoming.outliers import Outliers
from yizhan_server.rooms.incoming.verification import Verification, read_format
from yizhan_server.rooms.turns import Turns
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.events import REJECTED, KnownPdu
from yizhan_server.storage.state import StateKey

PORTION = 400
"""Events that are parsed, verified and stored together."""

KEYS_S = 60
"""Seconds in which the keys of all servers are to come; those that do not are asked once more."""

PASSES = 3
"""How often it is tried to place events whose auth events come after them."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What is kept in memory of a state event that may be believed."""

    nid: int
    sender: str
    membership: str | None


@dataclass(slots=True)
class ToldState:
    """What may be believed of a state, and which events came with it."""

    state: dict[StateKey, Stated] = field(default_factory=dict)
    event_ids: set[EventID] = field(default_factory=set)
    rejected: dict[StateKey, KnownPdu] = field(default_factory=dict)


@dataclass(slots=True)
class Taken:
    """What became of the events so far."""

    total: int
    done: int = 0
    known: int = 0
    """Those of them that were here before."""


class _Outline(msgspec.Struct):
    """What is looked at before anything of an event is verified."""

    depth: int = 0
    sender: str = ""
    origin_server_ts: int = 0
    signatures: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class _Told:
    raw: RawPdu
    is_state: bool
    depth: int


@dataclass(frozen=True, slots=True)
class _Read:
    """A portion that has been verified."""

    told: Sequence[_Told]
    formed: list[tuple[_Told, EventID]]
    """Those that have the format of the room."""
    known: dict[EventID, KnownPdu]
    right: list[Pdu]
    """Those that were not known, and that their servers have signed."""


class StateIntake:
    """Verifies and stores states of rooms."""

    def __init__(self, db: Database, verification: Verification, outliers: Outliers) -> None:
        self._db = db
        self._verification = verification
        self._outliers = outliers

    async def take(
        self,
        room: int,
        room_id: RoomID,
        version: RoomVersion,
        *,
        chain: Sequence[RawPdu],
        state: Sequence[RawPdu],
        note: Callable[[Taken], None] = lambda _: None,
    ) -> ToldState:
        """Store the events that are right; returns what may be believed of `state`.

        `note` is called after each portion.
        """
        told = await self._outlined([(chain, False), (state, True)], version)
        taken = Taken(len(told))
        found = ToldState()
        for _ in range(PASSES):
            waiting: list[_Told] = []
            read = await self._read(room, room_id, version, told[:PORTION])
            for start in range(PORTION, len(told) + PORTION, PORTION):
                # The next portion is verified while this one is stored.
                left, following = await asyncio.gather(
                    self._keep(room, version, read, found),
                    self._read(room, room_id, version, told[start : start + PORTION]),
                )
                taken.known += len(read.known)
                taken.done += len(read.told) - len(left)
                waiting += left
                read = following
                note(taken)
            if not waiting or len(waiting) == len(told):
                break
            told = waiting
        behind = await self._outliers.behind_rejected(room, version, found.rejected)
        for key, known in behind.items():
            found.state.setdefault(key, _stated(known))
        return found

    async def _outlined(
        self, parts: Sequence[tuple[Sequence[RawPdu], bool]], version: RoomVersion
    ) -> list[_Told]:
        """Return all events, those that authorise before the others; have the keys at hand.

        An event is deeper than those that authorise it. One that says otherwise has to wait.
        """
        told: list[_Told] = []
        uses: dict[ServerName, dict[tuple[str, ...], int]] = defaultdict(dict)
        turns = Turns()
        for raws, is_state in parts:
            for raw in raws:
                await turns.offer()
                try:
                    outline = msgspec.json.decode(raw, type=_Outline)
                except (msgspec.MsgspecError, ValueError, RecursionError):
                    outline = _Outline()  # whatever it is, it will be dropped
                told.append(_Told(raw, is_state, outline.depth))
                server = server_name_of(outline.sender)
                if server is not None:
                    key_ids = claimed_key_ids({"signatures": outline.signatures}, server)
                    latest = uses[server].get(key_ids, 0)
                    uses[server][key_ids] = max(latest, outline.origin_server_ts)
        told.sort(key=lambda each: each.depth)
        with suppress(TimeoutError):
            async with asyncio.timeout(KEYS_S):
                await self._verification.fetch_keys(uses, version)
        return told

    async def _read(
        self, room: int, room_id: RoomID, version: RoomVersion, told: Sequence[_Told]
    ) -> _Read:
        """Verify a portion, but for what is here already."""
        formed = []
        turns = Turns()
        for each in told:
            await turns.offer()
            pdu = read_format(each.raw, version)
            if isinstance(pdu, Pdu) and pdu.room_id == room_id:
                formed.append((each, pdu))
        event_ids = {pdu.event_id for _, pdu in formed}
        known = await stored_events.known_pdus(self._db, room, event_ids, version)
        fresh = [pdu for _, pdu in formed if pdu.event_id not in known]
        right = await self._verification.signed(fresh, version)
        return _Read(told, [(each, pdu.event_id) for each, pdu in formed], known, right)

    async def _keep(
        self, room: int, version: RoomVersion, read: _Read, found: ToldState
    ) -> list[_Told]:
        """Store what is right of a portion; returns what has to wait for its auth events."""
        kept = await self._outliers.keep(room, version, read.right)
        known = read.known | kept
        for each, event_id in read.formed:
            if event_id in known:
                found.event_ids.add(event_id)
                if each.is_state:
                    _believe(found, known[event_id])
        unplaced = {pdu.event_id for pdu in read.right} - known.keys()
        return [each for each, event_id in read.formed if event_id in unplaced]


def _believe(found: ToldState, known: KnownPdu) -> None:
    pdu = known.pdu
    if not pdu.is_state:
        return
    if known.flags & REJECTED:
        found.rejected[pdu.key] = known
    else:
        found.state[pdu.key] = _stated(known)


def _stated(known: KnownPdu) -> Stated:
    return Stated(known.nid, known.pdu.sender, known.pdu.membership)
