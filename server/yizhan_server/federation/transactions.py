"""Taking transactions of other servers: events room by room, then what is not durable.

A transaction that comes again while the first is still worked on waits for its answer; one that
comes later is worked on again, which changes nothing, because events are known by then and EDUs
say how things are.

Spec: server-server API, "Transactions".
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from yizhan_database import DatabaseUnavailable
from yizhan_server.federation.early_events import EarlyEvents
from yizhan_server.protocol.canonical_json import JsonObject, holds_nul
from yizhan_server.protocol.errors import BadJson, MatrixError
from yizhan_server.protocol.event import InvalidPdu, parse_pdu
from yizhan_server.protocol.identifiers import InvalidIdentifier, ServerName
from yizhan_server.rooms.handshakes.inviting import Inviting
from yizhan_server.rooms.incoming.reception import Reception
from yizhan_server.rooms.incoming.verification import Verification
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room

log = logging.getLogger(__name__)

MAX_PDUS = 50
MAX_EDUS = 100


class EduReceiver(Protocol):
    """Takes the EDUs of one type."""

    async def __call__(self, origin: ServerName, content: JsonObject) -> None:
        """Take one; nothing that it says of other servers is believed."""
        ...


class StateFollower(Protocol):
    """Does what is to be done here when others have changed some state of a room."""

    async def __call__(self, room: Room, /) -> None:
        """Look at the room's state; it may have changed, or not."""
        ...


class IncomingTransactions:
    """Takes transactions."""

    def __init__(
        self,
        rooms: Rooms,
        reception: Reception,
        verification: Verification,
        inviting: Inviting,
        early: EarlyEvents,
        edus: Mapping[str, EduReceiver],
        followers: Mapping[str, StateFollower],
    ) -> None:
        self._rooms = rooms
        self._reception = reception
        self._verification = verification
        self._inviting = inviting
        self._early = early
        self._edus = edus
        self._followers = followers
        """By the type of the state that they follow."""
        self._running: dict[tuple[ServerName, str], asyncio.Future[JsonObject]] = {}

    async def receive(
        self, origin: ServerName, txn_id: str, pdus: Sequence[Any], edus: Sequence[Any]
    ) -> JsonObject:
        """Work on a transaction; returns the answer. What it does not refuse is durable."""
        if len(pdus) > MAX_PDUS or len(edus) > MAX_EDUS:
            raise BadJson(f"A transaction has at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs")
        running = self._running.get((origin, txn_id))
        if running is not None:
            return await asyncio.shield(running)
        future = asyncio.get_running_loop().create_future()
        self._running[origin, txn_id] = future
        try:
            results = await self._receive_pdus(origin, pdus)
            await self._receive_edus(origin, edus)
            answer: JsonObject = {
                "pdus": {
                    event_id: {} if error is None else {"error": error}
                    for event_id, error in results.items()
                }
            }
        except BaseException as error:
            if isinstance(error, Exception):
                future.set_exception(error)
                future.exception()  # retrieved: nobody else need be waiting
            else:
                future.cancel()
            raise
        else:
            future.set_result(answer)
            return answer
        finally:
            del self._running[origin, txn_id]

    async def _receive_pdus(self, origin: ServerName, pdus: Sequence[Any]) -> dict[str, str | None]:
        by_room: dict[str, list[JsonObject]] = defaultdict(list)
        for raw in pdus:
            room_id = raw.get("room_id") if isinstance(raw, dict) else None
            if isinstance(room_id, str) and not _is_unstorable(raw):
                by_room[room_id].append(raw)
            # What names no room, or what no column can hold, cannot be kept apart: it is dropped.
        results: dict[str, str | None] = {}
        if len(by_room) == 1:
            ((room_id, raws),) = by_room.items()
            return await self._receive_of_room(origin, room_id, raws)
        found = await asyncio.gather(
            *(self._receive_of_room(origin, room_id, raws) for room_id, raws in by_room.items()),
            return_exceptions=True,
        )
        # One room is no reason to leave the others half done.
        for each in found:
            if isinstance(each, BaseException):
                raise each
            results |= each
        return results

    async def _receive_of_room(
        self, origin: ServerName, room_id: str, raws: list[JsonObject], *, may_wait: bool = True
    ) -> dict[str, str | None]:
        room = await self._rooms.find(room_id)
        is_here = room is not None and await self._reception.is_in_room(room)
        if not is_here and may_wait:
            receive = partial(self._receive_of_room, origin, room_id, raws, may_wait=False)
            if self._early.keep(origin, room_id, len(raws), receive):
                return {} if room is None else dict.fromkeys(_ids(room, raws))
        if room is None:
            log.info("events of an unknown room", extra={"origin": origin})
            return {}
        try:
            if not is_here:
                return await self._receive_from_outside(origin, room, raws)
            former = [await room.state_event(kind) for kind in self._followers]
            taken = await self._reception.receive(origin, room, raws)
            for (kind, follow), before in zip(self._followers.items(), former, strict=True):
                # One that comes again after a crash, or that had to be fetched before the others.
                is_named = any(raw.get("type") == kind for raw in raws)
                if is_named or await room.state_event(kind) != before:
                    await follow(room)
            return dict(taken.items())
        except MatrixError as error:
            if error.status >= 500:
                raise  # not for now: it is to come again
            log.info("events of a room refused", extra={"origin": origin, "why": error.errcode})
            return dict.fromkeys(_ids(room, raws), error.message)
        except DatabaseUnavailable:
            raise
        except Exception:
            # A fault of ours that one event brings out must not stop all that its server says:
            # answered with an error, the transaction would come again, byte for byte, for ever.
            log.exception("events of a room not taken", extra={"origin": origin})
            return dict.fromkeys(_ids(room, raws), "internal error")

    async def _receive_from_outside(
        self, origin: ServerName, room: Room, raws: list[JsonObject]
    ) -> dict[str, str | None]:
        """Look at events of a room that this server is not in: an invitation may be over."""
        results: dict[str, str | None] = {}
        for pdu in await self._verification.verified(raws, room.version, room.room_id):
            taken = await self._inviting.rescind(origin, room, pdu)
            results[pdu.event_id] = None if taken else "this server is not in the room"
            if not taken:
                extra = {"origin": origin, "event_id": pdu.event_id}
                log.info("event of a room that this server is not in", extra=extra)
        if any(results.values()) and await self._reception.is_in_room(room):
            # It has come here while the events were verified.
            return await self._receive_of_room(origin, room.room_id, raws, may_wait=False)
        return results

    async def _receive_edus(self, origin: ServerName, edus: Sequence[Any]) -> None:
        for edu in edus:
            kind = edu.get("edu_type") if isinstance(edu, dict) else None
            content = edu.get("content") if isinstance(edu, dict) else None
            receiver = self._edus.get(kind) if isinstance(kind, str) else None
            if receiver is None or not isinstance(content, dict) or holds_nul(content):
                continue
            try:
                await receiver(origin, content)
            except MatrixError as error:
                log.info("edu refused", extra={"origin": origin, "why": error.errcode})
            except InvalidIdentifier:
                log.info("edu refused", extra={"origin": origin, "why": "identifier"})
            except DatabaseUnavailable:
                raise
            except Exception:
                # As above: one EDU that finds a fault of ours is lost, not all that follows it.
                log.exception("edu not taken", extra={"origin": origin, "edu_type": kind})


def _is_unstorable(raw: JsonObject) -> bool:
    # The content is stored as JSON, in which NUL is escaped.
    return holds_nul({key: part for key, part in raw.items() if key != "content"})


def _ids(room: Room, raws: Sequence[JsonObject]) -> list[str]:
    """Return the IDs of those events that have the format of the room."""
    found: list[str] = []
    for raw in raws:
        try:
            found.append(parse_pdu(raw, room.version).event_id)
        except InvalidPdu:
            continue
    return found
