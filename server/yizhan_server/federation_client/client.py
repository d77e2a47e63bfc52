"""Everything that other servers can be asked, in one hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver

from yizhan_config.settings import Federation
from yizhan_config.tasks import Background
from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.federation_client.connections import open_connections
from yizhan_server.federation_client.destinations import Destinations
from yizhan_server.federation_client.discovery import Discovery
from yizhan_server.federation_client.events import EventRequests
from yizhan_server.federation_client.keys import KeyRequests
from yizhan_server.federation_client.media import MediaRequests
from yizhan_server.federation_client.peers import Peers
from yizhan_server.federation_client.queries import QueryRequests
from yizhan_server.federation_client.requests import Requests
from yizhan_server.federation_client.rooms import RoomRequests
from yizhan_server.federation_client.srv import SrvLookup
from yizhan_server.federation_client.well_known import HTTPS_PORT, WellKnown
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.signing import SigningKey


@dataclass(frozen=True, slots=True)
class FederationClient:
    """The endpoints by family, and what is known of the servers."""

    peers: Peers
    destinations: Destinations
    events: EventRequests
    rooms: RoomRequests
    queries: QueryRequests
    keys: KeyRequests
    media: MediaRequests
    requests: Requests
    """What all of these send, and how servers are found."""


@dataclass(frozen=True, slots=True)
class NameService:
    """How names are looked up; tests bring their own."""

    addresses: AbstractResolver | None = None
    srv: SrvLookup | None = None
    well_known_port: int = HTTPS_PORT


@asynccontextmanager
async def open_federation_client(
    settings: Federation,
    own: ServerName,
    key: SigningKey,
    db: Database | None,
    clock: Clock,
    background: Background,
    names: NameService | None = None,
) -> AsyncIterator[FederationClient]:
    """Be ready to ask other servers in the name of `own`. Raises ConfigurationError.

    `db` keeps who did not answer; without it nothing is kept.
    """
    names = names or NameService()
    async with open_connections(settings, names.addresses) as connections:
        peers = Peers(own, settings.allow)
        destinations = Destinations(db, clock, background)
        await destinations.prepare()
        discovery = Discovery(
            clock,
            WellKnown(clock, port=names.well_known_port),
            names.srv or SrvLookup(),
        )
        requests = Requests(
            own, key, peers, destinations, discovery, connections, settings.timeout_seconds
        )
        yield FederationClient(
            peers,
            destinations,
            EventRequests(requests, settings.transfer_timeout_seconds),
            RoomRequests(requests, settings.transfer_timeout_seconds),
            QueryRequests(requests),
            KeyRequests(requests),
            MediaRequests(requests, settings.transfer_timeout_seconds),
            requests,
        )
