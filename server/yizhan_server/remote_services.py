"""Part of the composition root: what other servers are asked on behalf of people of this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.accounts.remote_profiles import RemoteProfiles
from yizhan_server.rooms.remote_aliases import RemoteAliases
from yizhan_server.search.remote_directories import RemoteDirectories

if TYPE_CHECKING:
    from yizhan_config.tasks import Background
    from yizhan_server.clock import Clock
    from yizhan_server.federation_client.client import FederationClient


@dataclass(frozen=True, slots=True)
class RemoteServices:
    """What keeps the answers of other servers for a while, or passes them on."""

    profiles: RemoteProfiles
    aliases: RemoteAliases
    directories: RemoteDirectories


def assemble_remote(
    clock: Clock, background: Background, client: FederationClient
) -> RemoteServices:
    """Build these services."""
    return RemoteServices(
        RemoteProfiles(clock, background, client.queries),
        RemoteAliases(clock, background, client.queries),
        RemoteDirectories(client.queries),
    )
