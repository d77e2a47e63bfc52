"""How it stands with other servers: who is listed, who does not answer, who is owed something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.storage import destinations as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.federation_client.destinations import Destinations
    from yizhan_server.federation_client.peers import Peers
    from yizhan_server.protocol.canonical_json import JsonObject


class FederationStatus:
    """Tells administrators."""

    def __init__(self, db: Database, peers: Peers, destinations: Destinations) -> None:
        self._db = db
        self._peers = peers
        self._destinations = destinations

    async def list_all(self) -> list[JsonObject]:
        """Return an entry for each server, in the form of Synapse's admin API.

        `last_successful_stream_ordering` is how far a server has what it is owed; None for one that
        is owed nothing.
        """
        owed: dict[str, int] = {}
        async for server in storage.scan_busy_servers(self._db):
            busy = await storage.find_busy(self._db, server)
            if busy is not None:
                owed[server] = busy.sent_pos
        servers = {*self._peers.listed, *self._destinations.failing(), *owed}
        return [self._entry(ServerName(server), owed.get(server)) for server in sorted(servers)]

    def _entry(self, server: ServerName, owed_from: int | None) -> JsonObject:
        return {
            "destination": server,
            "failure_ts": self._destinations.failing_since_ms(server),
            "retry_last_ts": self._destinations.retry_ms(server)
            - self._destinations.interval_ms(server),
            "retry_interval": self._destinations.interval_ms(server),
            "last_successful_stream_ordering": owed_from,
        }
