"""Vouching for other servers' keys: what they published last, with this server's signature added.

Anybody may ask, as servers have to that are not yet known; so only the keys of servers are told
that this one may speak with, and asking is bounded as for any other use of the key ring.

Spec: server-server API, "Querying Keys Through Another Server".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import InvalidParam

if TYPE_CHECKING:
    from yizhan_server.clock import Clock
    from yizhan_server.federation_client.key_ring import KeyRing
    from yizhan_server.federation_client.peers import Peers
    from yizhan_server.protocol.canonical_json import JsonObject
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.protocol.server_keys import OwnKeys

MAX_SERVERS = 100
MAX_KEYS = 1000
"""In one question, of all servers together."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is wanted of a server's keys."""

    key_ids: frozenset[str] = frozenset()
    until_ms: int | None = None
    """Until when they should be valid (milliseconds; None: now, and for some time)."""


class Notary:
    """Hands on the keys of servers."""

    def __init__(self, own: OwnKeys, peers: Peers, keys: KeyRing, clock: Clock) -> None:
        self._own = own
        self._peers = peers
        self._keys = keys
        self._clock = clock

    def publish(self) -> JsonObject:
        """Return this server's own keys."""
        return self._own.publish(self._clock.now_ms())

    async def find(self, wanted: Mapping[ServerName, Criteria]) -> list[JsonObject]:
        """Return what each of these servers last published, those left out that never did.

        Also what it published before of keys that are asked for and that it has dropped.
        """
        if len(wanted) > MAX_SERVERS:
            raise InvalidParam(f"At most {MAX_SERVERS} servers are asked for at once")
        if sum(len(each.key_ids) for each in wanted.values()) > MAX_KEYS:
            raise InvalidParam(f"At most {MAX_KEYS} keys are asked for at once")
        found = await asyncio.gather(
            *(
                self._keys.find_published(server, each.key_ids, each.until_ms)
                for server, each in wanted.items()
                if server == self._own.server_name or self._peers.is_allowed(server)
            )
        )
        return [self._own.sign(answer) for answers in found for answer in answers]
