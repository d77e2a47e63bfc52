"""Part of the composition root: what other servers are asked on behalf of people of this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.accounts.remote_profiles import RemoteProfiles
from yizhan_server.media.remote_media import RemoteMedia
from yizhan_server.rooms.remote_aliases import RemoteAliases
from yizhan_server.rooms.remote_summaries import RemoteSummaries
from yizhan_server.search.remote_directories import RemoteDirectories

if TYPE_CHECKING:
    from yizhan_config.settings import Media
    from yizhan_config.tasks import Background
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.federation_client.client import FederationClient
    from yizhan_server.media.repository import ContentRepository
    from yizhan_server.rooms.registry import Rooms


@dataclass(frozen=True, slots=True)
class RemoteServices:
    """What keeps the answers of other servers for a while, or passes them on."""

    profiles: RemoteProfiles
    aliases: RemoteAliases
    directories: RemoteDirectories
    summaries: RemoteSummaries
    media: RemoteMedia


def assemble_remote(
    db: Database,
    clock: Clock,
    background: Background,
    client: FederationClient,
    rooms: Rooms,
    repository: ContentRepository,
    settings: Media,
) -> RemoteServices:
    """Build these services."""
    return RemoteServices(
        RemoteProfiles(clock, background, client.queries),
        RemoteAliases(clock, background, client.queries),
        RemoteDirectories(client.queries),
        RemoteSummaries(db, clock, background, client.queries, client.peers, rooms),
        RemoteMedia(db, clock, background, repository, client.media, settings),
    )
