"""The answer of simplified sliding sync, and the long poll for it.

Spec: MSC4186.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import orjson

from yizhan_server.ephemeral.counter import EphemeralCounter
from yizhan_server.ephemeral.presence import Presence
from yizhan_server.ephemeral.receipts import Receipts
from yizhan_server.protocol.errors import UnknownPos
from yizhan_server.protocol.stream_token import SlidingToken, SyncToken
from yizhan_server.storage.rooms import UserRoom
from yizhan_server.storage.sliding_connections import Connection
from yizhan_server.streams import Stream
from yizhan_server.sync.account_data import AccountDataChanges
from yizhan_server.sync.changes import UserChanges, Window
from yizhan_server.sync.long_poll import wait_for_answer
from yizhan_server.sync.sliding.connection import DIRECT, LIVE, ConnectionState, SentRoom
from yizhan_server.sync.sliding.connections import Connections
from yizhan_server.sync.sliding.extensions import Extensions, Progress
from yizhan_server.sync.sliding.lists import Coverage, RoomLists
from yizhan_server.sync.sliding.request import SlidingRequest
from yizhan_server.sync.sliding.rooms import RoomAnswer, RoomAnswers, RoomNews, SlidingReader

JsonObject = dict[str, Any]

YIELD_EVERY = 20
"""Rooms that are built before other requests get their turn."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer without its position, and what that position stands for."""

    body: JsonObject
    upto: int
    ephemeral: int
    state: ConnectionState


class SlidingSync:
    """Answers sliding syncs."""

    def __init__(
        self,
        stream: Stream,
        changes: UserChanges,
        account_data: AccountDataChanges,
        receipts: Receipts,
        counter: EphemeralCounter,
        presence: Presence,
        connections: Connections,
        lists: RoomLists,
        rooms: RoomAnswers,
        extensions: Extensions,
    ) -> None:
        self._stream = stream
        self._changes = changes
        self._account_data = account_data
        self._receipts = receipts
        self._counter = counter
        self._presence = presence
        self._connections = connections
        self._lists = lists
        self._rooms = rooms
        self._extensions = extensions

    async def answer(self, request: SlidingRequest) -> bytes:
        """Return the answer's JSON, as soon as there is something, at the latest at time-out.

        Raises UnknownPos when the client has to begin anew, and InvalidParam.
        """
        requester, token = request.requester, request.token
        connection = Connection(requester.user_id, requester.device_id, request.conn_id)
        sent: ConnectionState = {}
        if token is None:
            self._rooms.begin(_client(request))
        else:
            if (
                token.sync.epoch != self._stream.epoch
                or token.sync.position > self._stream.position
            ):
                raise UnknownPos
            sent = await self._connections.find(connection, token.connection)
        await self._extensions.acknowledge(request)
        self._presence.seen(requester.user_id, request.set_presence)

        async def build() -> tuple[_Answer, bool]:
            answer, changed = await self._build(request, sent)
            return answer, changed or token is None

        answer = await wait_for_answer(
            self._stream, requester, request.conn_id, request.timeout_ms, build
        )
        number = None if token is None else token.connection
        if number is None or answer.state != sent:
            number = await self._connections.record(connection, number, answer.state)
        pos = SlidingToken(
            number,
            SyncToken(self._stream.epoch, answer.upto, self._counter.boot, answer.ephemeral),
        )
        return orjson.dumps({"pos": pos.serialize(), **answer.body})

    async def _build(self, request: SlidingRequest, sent: ConnectionState) -> tuple[_Answer, bool]:
        """Return the answer about what is new, and whether there is anything in it."""
        user_id, token = request.user_id, request.token
        window = Window(None if token is None else token.sync.position, self._stream.position)
        ephemeral = self._counter.value
        heard = 0
        if token is not None and token.sync.boot == self._counter.boot:
            heard = token.sync.ephemeral
        reader = SlidingReader(
            user_id, request.requester.device_id, _client(request),
            await self._account_data.ignored_users(user_id),
            await self._account_data.blocks_invites(user_id),
            await self._account_data.direct_rooms(user_id),
        )  # fmt: skip
        # Without any list or subscription nothing is covered, and nothing is forgotten.
        coverage, listed = Coverage(), set(sent)
        if request.lists or request.subscriptions:
            coverage, listed = await self._cover(request, reader, sent, window)
        state = _left_behind(sent, coverage, listed, window)
        answers = await self._answers(reader, coverage, sent, state, window)
        progress = Progress(request, window, heard, sent, coverage, answers)
        extensions = await self._extensions.build(progress)
        for nid in coverage.rooms:
            flags = state[nid].flags & DIRECT | extensions.flags.get(nid, 0)
            if flags != state[nid].flags:
                state[nid] = replace(state[nid], flags=flags)
        body: JsonObject = {
            "lists": coverage.lists,
            "rooms": {
                coverage.rooms[nid].room.room_id: answer.body for nid, answer in answers.items()
            },
            "extensions": extensions.body,
        }
        return _Answer(body, window.upto, ephemeral, state), bool(answers) or extensions.news

    async def _cover(
        self,
        request: SlidingRequest,
        reader: SlidingReader,
        sent: ConnectionState,
        window: Window,
    ) -> tuple[Coverage, set[int]]:
        """Return what the answer covers, and the rooms that the connection may go on to have."""
        rooms: list[UserRoom] = [
            room
            for room in await self._changes.rooms(reader.user_id, window)
            if room.membership != "invite"
            or not (reader.blocks_invites or room.sender in reader.ignored)
        ]
        listed = await self._lists.listed(reader.user_id, rooms, sent, window)
        coverage = await self._lists.cover(request, rooms, listed, reader.directs, window.upto)
        return coverage, {room.nid for room in listed}

    async def _answers(
        self,
        reader: SlidingReader,
        coverage: Coverage,
        sent: ConnectionState,
        state: ConnectionState,
        window: Window,
    ) -> dict[int, RoomAnswer]:
        """Return the parts of the rooms with news; what the connection then has is in `state`."""
        if not coverage.rooms:
            return {}
        news = RoomNews(frozenset(), frozenset())
        if window.after is not None and window.after < window.upto:
            news = RoomNews(
                frozenset(await self._changes.rooms_with_events(reader.user_id, window)),
                frozenset(
                    await self._receipts.rooms_read_by(reader.user_id, window.after, window.upto)
                ),
            )
        answers: dict[int, RoomAnswer] = {}
        for nid, covered in coverage.rooms.items():
            before = sent.get(nid)
            answer, after = await self._rooms.build(reader, covered, before, window, news)
            state[nid] = after
            if answer is not None:
                answers[nid] = answer
                if len(answers) % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        return answers


def _client(request: SlidingRequest) -> tuple[str, str, str]:
    """Return the name under which lazily loaded members are remembered."""
    return request.requester.user_id, request.requester.device_id, request.conn_id


def _left_behind(
    sent: ConnectionState, coverage: Coverage, listed: set[int], window: Window
) -> ConnectionState:
    """Return what the connection keeps of rooms that this answer does not cover."""
    kept: dict[int, SentRoom] = {}
    for nid, room in sent.items():
        if nid in coverage.rooms or nid not in listed:
            continue
        kept[nid] = room if room.upto != LIVE else replace(room, upto=window.after or 0)
    return kept
