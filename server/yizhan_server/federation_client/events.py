"""Asking for events and states, and sending transactions.

Spec: server-server API, "Transactions", "Retrieving event authorization information",
"Backfilling and retrieving missing events", "Retrieving events", "Timestamp to event".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal

import msgspec

from yizhan_server.federation_client.answers import (
    RawPdu,
    parse_answer,
    parse_large_answer,
    parse_typed,
)
from yizhan_server.federation_client.errors import RemoteMisbehaved
from yizhan_server.federation_client.requests import Question, Requests, body_of, path_of
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import EventID, RoomID, ServerName

log = logging.getLogger(__name__)

_V1 = "/_matrix/federation/v1"

MAX_STATE_BYTES = 64 * 1024 * 1024
MAX_CHAIN_BYTES = 16 * 1024 * 1024
"""Twenty thousand events, or the IDs of three hundred thousand."""


class StateIds(msgspec.Struct, frozen=True):
    """The state before an event, and its auth chain, by event IDs."""

    pdu_ids: list[str]
    auth_chain_ids: list[str]


class State(msgspec.Struct, frozen=True):
    """The state before an event, and its auth chain."""

    pdus: list[RawPdu]
    auth_chain: list[RawPdu]


class FoundEvent(msgspec.Struct, frozen=True):
    """The event nearest to a time."""

    event_id: str
    origin_server_ts: int


class _AuthChain(msgspec.Struct):
    auth_chain: list[RawPdu]


class _Pdus(msgspec.Struct):
    pdus: list[RawPdu]


class _Events(msgspec.Struct):
    events: list[RawPdu]


class _PduResult(msgspec.Struct):
    error: str | None = None


class _TransactionAnswer(msgspec.Struct):
    pdus: dict[str, _PduResult]


class EventRequests:
    """One method for each endpoint; all raise the four kinds of RemoteFailure."""

    def __init__(self, requests: Requests, transfer_timeout_seconds: float) -> None:
        self._requests = requests
        self._transfer_timeout_seconds = transfer_timeout_seconds

    async def send_transaction(
        self, server: ServerName, transaction_id: str, transaction: bytes
    ) -> dict[str, str]:
        """Send a transaction, byte for byte as it is given; returns what was wrong, by event ID.

        A RemoteRefused may have a status of 500 and more too: the transaction was not taken.
        """
        path = path_of(f"{_V1}/send", transaction_id)
        answer = await self._requests.ask(server, Question("PUT", path, body=transaction))
        try:
            results = parse_typed(server, answer, _TransactionAnswer).pdus
        except RemoteMisbehaved as error:
            # It said 200, so it has taken them: sending it all again would never end.
            log.info("transaction answered strangely", extra={"error": str(error)})
            return {}
        return {event_id: each.error for event_id, each in results.items() if each.error}

    async def event(self, server: ServerName, event_id: EventID) -> RawPdu:
        """Return one event. That it is the one that was asked for, its hash has to show."""
        question = Question("GET", path_of(f"{_V1}/event", event_id))
        pdus = parse_answer(server, await self._requests.ask(server, question), _Pdus).pdus
        if len(pdus) != 1:
            raise RemoteMisbehaved(server, "one event was asked for")
        return pdus[0]

    async def event_auth(
        self, server: ServerName, room_id: RoomID, event_id: EventID
    ) -> list[RawPdu]:
        """Return the complete auth chain of an event."""
        path = path_of(f"{_V1}/event_auth", room_id, event_id)
        question = self._large(path, MAX_CHAIN_BYTES)
        answer = await self._requests.ask(server, question)
        return (await parse_large_answer(server, answer, _AuthChain)).auth_chain

    async def state_ids(self, server: ServerName, room_id: RoomID, event_id: EventID) -> StateIds:
        """Return the state before an event, by event IDs."""
        path = path_of(f"{_V1}/state_ids", room_id)
        question = self._large(path, MAX_CHAIN_BYTES, event_id=event_id)
        answer = await self._requests.ask(server, question)
        ids = await parse_large_answer(server, answer, StateIds)
        _check_ids(server, (*ids.pdu_ids, *ids.auth_chain_ids))
        return ids

    async def state(self, server: ServerName, room_id: RoomID, event_id: EventID) -> State:
        """Return the state before an event; for a large room this is very much."""
        path = path_of(f"{_V1}/state", room_id)
        question = self._large(path, MAX_STATE_BYTES, event_id=event_id)
        answer = await self._requests.ask(server, question)
        return await parse_large_answer(server, answer, State)

    async def backfill(
        self, server: ServerName, room_id: RoomID, latest: Iterable[EventID], limit: int
    ) -> list[RawPdu]:
        """Return `latest` and events before them, at most `limit` in all if the server is right."""
        query = [*(("v", event_id) for event_id in latest), ("limit", str(limit))]
        question = Question("GET", path_of(f"{_V1}/backfill", room_id), query)
        return parse_answer(server, await self._requests.ask(server, question), _Pdus).pdus

    async def missing_events(
        self,
        server: ServerName,
        room_id: RoomID,
        *,
        earliest: Iterable[EventID],
        latest: Iterable[EventID],
        limit: int,
        min_depth: int = 0,
    ) -> list[RawPdu]:
        """Return events between `latest` and `earliest`, both left out."""
        content: JsonObject = {
            "earliest_events": list(earliest),
            "latest_events": list(latest),
            "limit": limit,
            "min_depth": min_depth,
        }
        path = path_of(f"{_V1}/get_missing_events", room_id)
        answer = await self._requests.ask(server, Question("POST", path, body=body_of(content)))
        return parse_answer(server, answer, _Events).events

    async def event_by_time(
        self, server: ServerName, room_id: RoomID, ts_ms: int, direction: Literal["f", "b"]
    ) -> FoundEvent:
        """Return the event nearest to a time, forwards or backwards."""
        path = path_of(f"{_V1}/timestamp_to_event", room_id)
        question = Question("GET", path, [("ts", str(ts_ms)), ("dir", direction)], urgent=True)
        found = parse_answer(server, await self._requests.ask(server, question), FoundEvent)
        _check_ids(server, (found.event_id,))
        return found

    def _large(self, path: str, max_bytes: int, **query: str) -> Question:
        return Question(
            "GET", path, list(query.items()),
            timeout_seconds=self._transfer_timeout_seconds, max_bytes=max_bytes,
        )  # fmt: skip


def _check_ids(server: ServerName, event_ids: Iterable[str]) -> None:
    """Raise RemoteMisbehaved for what no column can hold: nobody could look for such an event."""
    if any("\0" in event_id for event_id in event_ids):
        raise RemoteMisbehaved(server, "an event ID with a NUL")
