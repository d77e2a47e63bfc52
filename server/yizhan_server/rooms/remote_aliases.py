"""Aliases of other servers, which these are asked for.

Spec: server-server API, "Querying for information" (GET /query/directory).
"""

from __future__ import annotations

from dataclasses import dataclass

from yizhan_config.tasks import Background
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import (
    RemoteFailure,
    RemoteMisbehaved,
    RemoteRefused,
    told_to_client,
)
from yizhan_server.federation_client.queries import QueryRequests
from yizhan_server.federation_client.remembered import Ask, Remembered
from yizhan_server.protocol.errors import NotFound
from yizhan_server.protocol.identifiers import (
    InvalidIdentifier,
    RoomAlias,
    RoomID,
    ServerName,
    parse_room_id,
    parse_server_name,
    server_name_of,
)

MAX_SERVERS = 50
"""Of those that an answer names; more are of no use for a join."""


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """Where an alias leads, and which servers can let one in."""

    room_id: RoomID
    servers: list[ServerName]


class RemoteAliases:
    """Asks the servers of aliases, once however many want to know at the same time.

    Nothing is kept: where an alias has moved since, as in an upgrade, people would be led into
    the room that it has left.
    """

    def __init__(self, clock: Clock, background: Background, queries: QueryRequests) -> None:
        self._queries = queries
        self._targets = Remembered(clock, background, self._query, for_ms=0, most=0)

    async def locate(self, alias: RoomAlias, ask: Ask) -> AliasTarget:
        """Return where an alias of another server leads, or answer why that is not known."""
        try:
            return await self._targets.get(alias, ask)
        except RemoteRefused as refusal:
            if refusal.status == 404:
                raise NotFound("There is no room with this alias") from None
            raise told_to_client(refusal) from None
        except RemoteFailure as failure:
            raise told_to_client(failure) from None

    async def _query(self, alias: RoomAlias) -> AliasTarget:
        server = server_name_of(alias)
        assert server is not None, "the alias has been parsed"
        answer = await self._queries.directory(server, alias)
        try:
            room_id = parse_room_id(answer.room_id)
        except InvalidIdentifier:
            raise RemoteMisbehaved(server, "the alias leads to no room") from None
        servers = []
        for each in answer.servers[:MAX_SERVERS]:
            try:
                servers.append(parse_server_name(each))
            except InvalidIdentifier:
                continue
        return AliasTarget(room_id, list(dict.fromkeys([*servers, server])))
