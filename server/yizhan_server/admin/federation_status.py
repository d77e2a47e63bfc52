"""How it stands with other servers: who is listed, who does not answer, who is owed something.

And which of their rooms are being joined, and how far that has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.storage import destinations as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.federation_client.destinations import Destinations
    from yizhan_server.federation_client.peers import Peers
    from yizhan_server.protocol.canonical_json import JsonObject
    from yizhan_server.rooms.handshakes.under_way import JoinsUnderWay


class FederationStatus:
    """Tells administrators."""

    def __init__(
        self,
        db: Database,
        peers: Peers,
        destinations: Destinations,
        joins: JoinsUnderWay,
    ) -> None:
        self._db = db
        self._peers = peers
        self._destinations = destinations
        self._joins = joins

    def list_joins(self) -> list[JsonObject]:
        """Return the joins that are under way.

        `events_total` is None while the other server's answer is awaited.
        """
        return [
            {
                "room_id": join.room_id,
                "user_id": join.user_id,
                "server": join.server,
                "since_ts": join.since_ms,
                "events_total": None if join.taken is None else join.taken.total,
                "events_done": 0 if join.taken is None else join.taken.done,
            }
            for join in self._joins
        ]

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
