"""Part of the composition root: keys and signatures between servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.api.peer_authentication import PeerAuthentication
from yizhan_server.federation_client.key_ring import KeyRing
from yizhan_server.federation_client.notary import Notary
from yizhan_server.federation_client.own_keys import load_own_keys
from yizhan_server.protocol.identifiers import ServerName

if TYPE_CHECKING:
    from yizhan_config.settings import Settings
    from yizhan_config.tasks import Background
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.federation_client.client import FederationClient


@dataclass(frozen=True, slots=True)
class FederationServices:
    """What proves which server has signed something."""

    key_ring: KeyRing
    notary: Notary
    authentication: PeerAuthentication


def assemble_federation(
    settings: Settings,
    db: Database,
    clock: Clock,
    background: Background,
    client: FederationClient,
) -> FederationServices:
    """Build these services. Raises ConfigurationError."""
    own = load_own_keys(settings)
    notaries = [ServerName(name) for name in settings.federation.trusted_key_servers]
    key_ring = KeyRing(db, clock, background, client.keys, own, notaries)
    return FederationServices(
        key_ring,
        Notary(own, client.peers, key_ring, clock),
        PeerAuthentication(own.server_name, client.peers, key_ring, client.destinations),
    )
