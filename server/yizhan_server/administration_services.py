"""The services of administration over HTTP, wired: for `app`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.admin.media import MediaAdministration
from yizhan_server.admin.people import PeopleAdministration
from yizhan_server.admin.rooms import RoomAdministration
from yizhan_server.admin.tasks import Tasks
from yizhan_server.admin.tokens import TokenAdministration
from yizhan_server.flows.room_removal import RoomRemoval
from yizhan_server.rooms.history_purge import HistoryPurge

if TYPE_CHECKING:
    from yizhan_config.tasks import Background
    from yizhan_database import Database
    from yizhan_server.account_services import AccountFlows, PersonalServices
    from yizhan_server.clock import Clock
    from yizhan_server.flows.deactivation import Deactivation
    from yizhan_server.flows.device_rename import DeviceRename
    from yizhan_server.flows.profile_change import ProfileChange
    from yizhan_server.media.remote_media import RemoteMedia
    from yizhan_server.media.repository import ContentRepository
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.rooms.aliases import Aliases
    from yizhan_server.rooms.creation import RoomCreation
    from yizhan_server.rooms.departures import Departures
    from yizhan_server.rooms.members import Members
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.rooms.rendering import EventRenderer
    from yizhan_server.rooms.writer import EventWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Administration:
    """What administrators act through."""

    people: PeopleAdministration
    rooms: RoomAdministration
    media: MediaAdministration
    tokens: TokenAdministration
    removal: RoomRemoval


def assemble_administration(
    db: Database,
    clock: Clock,
    background: Background,
    server_name: ServerName,
    *,
    personal: PersonalServices,
    flows: AccountFlows,
    profile_change: ProfileChange,
    deactivation: Deactivation,
    device_rename: DeviceRename,
    rooms: Rooms,
    members: Members,
    creation: RoomCreation,
    writer: EventWriter,
    renderer: EventRenderer,
    aliases: Aliases,
    departures: Departures,
    media: ContentRepository,
    remote_media: RemoteMedia,
) -> Administration:
    """Build the services."""
    removal = RoomRemoval(db, rooms, members, creation, writer, aliases, departures, server_name)
    return Administration(
        people=PeopleAdministration(
            db,
            flows.record,
            accounts=personal.accounts,
            sessions=personal.sessions,
            profiles=personal.profiles,
            profile_change=profile_change,
            password_change=flows.password_change,
            deactivation=deactivation,
            logout=flows.logout,
            device_rename=device_rename,
        ),
        rooms=RoomAdministration(
            db,
            clock,
            flows.record,
            Tasks(background),
            accounts=personal.accounts,
            rooms=rooms,
            members=members,
            writer=writer,
            renderer=renderer,
            aliases=aliases,
            history_purge=HistoryPurge(db, server_name),
            removal=removal,
        ),
        media=MediaAdministration(
            db,
            clock,
            flows.record,
            accounts=personal.accounts,
            rooms=rooms,
            media=media,
            remote_media=remote_media,
            server_name=server_name,
        ),
        tokens=TokenAdministration(db, clock, flows.record),
        removal=removal,
    )
