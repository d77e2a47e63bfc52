"""Rooms whose events a policy server has to sign: which ones, and asking that server.

Nothing of a room is held while it is asked: neither its lock nor, for longer than `AWAY_MS`, a
server that does not answer.

Spec: server-server API, "Policy Servers".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import (
    PeerNotAllowed,
    RemoteFailure,
    RemoteMisbehaved,
    RemoteRefused,
    RemoteUnavailable,
    told_to_client,
)
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.policy_server import (
    POLICY,
    PolicyServer,
    find_policy_server,
    is_exempt,
    is_recommended,
    with_recommendation,
)
from yizhan_server.protocol.signing import InvalidSignature
from yizhan_server.rooms.power import StateSource
from yizhan_server.rooms.room import Room
from yizhan_server.storage import room_servers as stored_servers

log = logging.getLogger(__name__)

ANSWER_S = 10.0
"""Seconds that a policy server may take over one event."""

AWAY_MS = 10_000
"""For so long one that did not answer is not asked again: a change of name in a hundred rooms is
not to wait a hundred times."""


class PolicyRequests(Protocol):
    """Asks policy servers."""

    async def policy_signature(
        self, server: ServerName, event: JsonObject, *, timeout_seconds: float
    ) -> JsonObject:
        """Return `signatures` of the server. Raises RemoteFailure."""
        ...


class Kind(Protocol):
    """What says whether an event is exempt."""

    @property
    def type(self) -> str:
        """The event's type."""
        ...

    @property
    def state_key(self) -> str | None:
        """Its state key, if it is a state event."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """An event, and the policy server that was asked about it."""

    event_id: str
    policy: PolicyServer


class PolicyServers:
    """Knows which rooms use a policy server, and gets its signatures."""

    def __init__(self, db: Database, clock: Clock, requests: PolicyRequests) -> None:
        self._db = db
        self._clock = clock
        self._requests = requests
        self._away: dict[ServerName, int] = {}
        """Until when each server that did not answer is left alone."""

    async def find(self, room: Room, state: StateSource) -> PolicyServer | None:
        """Return the policy server of a room by one of its states; None if it uses none.

        The server must have somebody joined: a room cannot make anybody its policy server.
        """
        event = await state(POLICY)
        policy = None if event is None else find_policy_server(event.pdu.content)
        if policy is None or not await stored_servers.is_in_room(self._db, room.nid, policy.name):
            return None
        return policy

    async def are_needed(self, room: Room, events: Iterable[Kind]) -> bool:
        """Whether some of our own `events`, about to be written, need a policy server's consent."""
        if all(is_exempt(each.type, each.state_key) for each in events):
            return False
        return await self.find(room, room.tail_state_event) is not None

    async def lacking(self, room: Room, pdu: Pdu, state: StateSource) -> PolicyServer | None:
        """Return the policy server whose signature an event lacks by a state of the room."""
        policy = await self.find(room, state)
        if policy is None or is_recommended(pdu, policy, room.version):
            return None
        return policy

    async def recommended(self, room: Room, pdu: Pdu) -> Pdu:
        """Return an event with all that its room's policy server has to give it.

        MatrixError for who wants to send it, where that server refuses it or cannot be asked.
        """
        policy = await self.lacking(room, pdu, lambda key: room.state_event(*key))
        if policy is None:
            return pdu
        try:
            return await self.ask(policy, room, pdu)
        except RemoteFailure as failure:
            log.info(
                "event not sent for its policy server",
                extra={"room_id": room.room_id, "why": str(failure)},
            )
            raise _told(failure) from None

    async def ask(self, policy: PolicyServer, room: Room, pdu: Pdu) -> Pdu:
        """Return an event with the policy server's signature.

        Raises RemoteFailure, also for a signature by another key than the room names; TooLarge.
        """
        if policy.key is None:
            raise RemoteMisbehaved(policy.name, "the room names no key for its policy server")
        if self._clock.now_ms() < self._away.get(policy.name, 0):
            raise RemoteUnavailable(policy.name, "did not answer just now")
        try:
            answer = await self._requests.policy_signature(
                policy.name, pdu.raw, timeout_seconds=ANSWER_S
            )
        except RemoteUnavailable:
            self._note_away(policy.name)
            raise
        self._away.pop(policy.name, None)
        try:
            return with_recommendation(pdu, policy, answer, room.version)
        except InvalidSignature as error:
            raise RemoteMisbehaved(policy.name, str(error)) from None

    def _note_away(self, server: ServerName) -> None:
        now_ms = self._clock.now_ms()
        self._away = {each: until for each, until in self._away.items() if now_ms < until}
        self._away[server] = now_ms + AWAY_MS


def _told(failure: RemoteFailure) -> MatrixError:
    """Return what is told who wanted to send an event: a refusal as it is, where that is safe."""
    if isinstance(failure, PeerNotAllowed):
        return Forbidden("Federation with the policy server of this room is closed")
    if isinstance(failure, RemoteRefused):
        if failure.is_safe_to_tell:
            return told_to_client(failure)
        return Forbidden(failure.error[:500] or "The policy server of this room refused the event")
    if isinstance(failure, RemoteMisbehaved):
        # Not a 5xx: asked again it would answer the same.
        return Forbidden("The policy server of this room gave no signature that the room knows")
    return MatrixError(502, "M_UNKNOWN", "The policy server of this room could not be reached")
