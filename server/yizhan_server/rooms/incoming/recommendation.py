"""Asking a room's policy server about events of other servers that came without its signature.

Spec: server-server API, "Checks performed on receipt of a PDU", 7; "Policy Servers".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from weakref import WeakValueDictionary

from yizhan_server.federation_client.errors import RemoteFailure
from yizhan_server.protocol.errors import TooLarge
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, ServerName
from yizhan_server.protocol.policy_server import PolicyServer, is_exempt, is_recommended
from yizhan_server.rooms.policy_servers import PolicyServers, Question
from yizhan_server.rooms.room import Room

log = logging.getLogger(__name__)

AT_ONCE = 5
"""Questions to one policy server at a time; what our own people send does not wait for them."""


class Recommendation:
    """Gets the signatures that events of other servers lack."""

    def __init__(self, policies: PolicyServers) -> None:
        self._policies = policies
        self._slots: WeakValueDictionary[ServerName, asyncio.Semaphore] = WeakValueDictionary()

    async def asked_for(
        self, room: Room, pdus: Sequence[Pdu], deadline: float
    ) -> tuple[list[Pdu], frozenset[Question]]:
        """Return the events, signed as far as the policy server did, and what it was asked.

        Only what comes before the next change of the policy is asked about. An answer that is not
        there at `deadline`, a time of the event loop, is none.
        """
        policy = await self._policies.find(room, lambda key: room.state_event(*key))
        if policy is None:
            return list(pdus), frozenset()
        before = list(takewhile(lambda pdu: not is_exempt(pdu.type, pdu.state_key), pdus))
        signed: dict[EventID, Pdu] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline), asyncio.TaskGroup() as asking:
                for pdu in before:
                    if not is_recommended(pdu, policy, room.version):
                        asking.create_task(self._ask(policy, room, pdu, signed))
        questions = frozenset(Question(pdu.event_id, policy) for pdu in before)
        return [signed.get(pdu.event_id, pdu) for pdu in pdus], questions

    async def _ask(
        self, policy: PolicyServer, room: Room, pdu: Pdu, signed: dict[EventID, Pdu]
    ) -> None:
        async with self._slots.setdefault(policy.name, asyncio.Semaphore(AT_ONCE)):
            try:
                signed[pdu.event_id] = await self._policies.ask(policy, room, pdu)
            except (RemoteFailure, TooLarge) as failure:
                log.info(
                    "event not recommended",
                    extra={"event_id": pdu.event_id, "why": str(failure)},
                )
