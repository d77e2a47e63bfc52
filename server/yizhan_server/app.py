"""The composition root: builds each service once and hands it its collaborators.

No container and no service locator: what a service needs are its constructor's arguments, and this
file is where they come from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from yizhan_config.authorities import trusting_context
from yizhan_config.outbound import OutboundSession, outbound_session
from yizhan_config.secret_files import read_secret
from yizhan_config.settings import RateLimit, Settings
from yizhan_config.settings import RateLimits as RateLimitSettings
from yizhan_config.tasks import Background
from yizhan_database import Database, DatabaseUnavailable, Transaction
from yizhan_server.account_services import (
    AccountFlows,
    assemble_flows,
    assemble_personal_services,
    assemble_room_flows,
)
from yizhan_server.accounts.member_profiles import MemberProfiles
from yizhan_server.accounts.openid import OpenidTokens
from yizhan_server.accounts.registration_sessions import RegistrationSessions
from yizhan_server.accounts.room_settings import RoomSettings
from yizhan_server.admin.federation_status import FederationStatus
from yizhan_server.administration_services import assemble_administration
from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.client_address import ClientAddresses
from yizhan_server.api.discovery import Turn, make_discovery
from yizhan_server.api.limits import Rate, RateLimits
from yizhan_server.api.routing import PEER_ADDRESS_LIMIT, PEER_LIMIT, Router, Wrapper
from yizhan_server.api.services import Services
from yizhan_server.appservices.accounts import AppserviceAccounts
from yizhan_server.appservices.calls import AppserviceCalls
from yizhan_server.appservices.delivery import AppserviceDelivery
from yizhan_server.appservices.directory import NetworkDirectories
from yizhan_server.appservices.identities import AppserviceIdentities
from yizhan_server.appservices.interests import Interests
from yizhan_server.appservices.queries import AppserviceQueries
from yizhan_server.appservices.registered import Appservices
from yizhan_server.appservices.registration import load_registrations
from yizhan_server.appservices.third_party import ThirdParty
from yizhan_server.appservices.transactions import Transactions
from yizhan_server.clock import Clock
from yizhan_server.e2ee.cross_signing import CrossSigning
from yizhan_server.e2ee.device_changes import DeviceChanges
from yizhan_server.e2ee.device_lists import DeviceLists
from yizhan_server.e2ee.forgetting import KeyForgetter
from yizhan_server.e2ee.key_backup import KeyBackups
from yizhan_server.e2ee.key_queries import KeyQueries
from yizhan_server.e2ee.keys import Keys
from yizhan_server.e2ee.peer_queries import PeerKeyQueries
from yizhan_server.e2ee.signature_uploads import SignatureUploads
from yizhan_server.e2ee.to_device import ToDevice
from yizhan_server.ephemeral.counter import EphemeralCounter
from yizhan_server.ephemeral.presence import Presence
from yizhan_server.ephemeral.receipts import Receipts
from yizhan_server.ephemeral.typing import Typing
from yizhan_server.ephemeral.unread import UnreadCounts
from yizhan_server.federation.outbox import Outbox
from yizhan_server.federation.outbox_expiry import OutboxExpiry
from yizhan_server.federation_client.client import FederationClient, open_federation_client
from yizhan_server.federation_services import assemble_federation
from yizhan_server.flows.dehydration import Dehydration
from yizhan_server.flows.device_rename import DeviceRename
from yizhan_server.flows.reporting import Reporting
from yizhan_server.flows.room_removal import RoomRemoval
from yizhan_server.flows.server_notices import ServerNotices
from yizhan_server.flows.third_party_invites import ThirdPartyInvites
from yizhan_server.identity.bindings import IdentityBindings
from yizhan_server.identity.servers import IdentityServers
from yizhan_server.media.files import FileStore
from yizhan_server.media.previews import UrlPreviews
from yizhan_server.media.repository import ContentRepository
from yizhan_server.media.thumbnails import Thumbnails
from yizhan_server.pages.all_pages import PAGES
from yizhan_server.protocol.identifiers import parse_server_name
from yizhan_server.protocol.signing import SigningKey
from yizhan_server.push.delivery import PushDelivery
from yizhan_server.push.history import NotificationHistory
from yizhan_server.remote_services import assemble_remote
from yizhan_server.rooms.access import RoomAccess
from yizhan_server.rooms.aliases import Aliases
from yizhan_server.rooms.creation import RoomCreation
from yizhan_server.rooms.delayed import DelayedEvents
from yizhan_server.rooms.departures import Departures
from yizhan_server.rooms.events_by_time import EventsByTime
from yizhan_server.rooms.guest_access import GuestAccess
from yizhan_server.rooms.hierarchy import SpaceHierarchy
from yizhan_server.rooms.housekeeping import Housekeeping
from yizhan_server.rooms.members import Members
from yizhan_server.rooms.peer_access import PeerRoomAccess
from yizhan_server.rooms.push_evaluation import PushEvaluation
from yizhan_server.rooms.reading import RoomReading
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.relations import Relations
from yizhan_server.rooms.rendering import EventRenderer
from yizhan_server.rooms.retention import Retention
from yizhan_server.rooms.self_destruction import SelfDestruction
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.succession import Succession
from yizhan_server.rooms.summaries import RoomSummaries
from yizhan_server.rooms.upgrade import RoomUpgrades
from yizhan_server.search.message_index import MessageIndex
from yizhan_server.search.messages import MessageSearch
from yizhan_server.search.room_directory import RoomDirectory
from yizhan_server.search.user_directory import UserDirectory
from yizhan_server.shared_room_services import (
    Incoming,
    assemble_incoming,
    assemble_remote_keys,
    assemble_shared_rooms,
    assemble_writing,
)
from yizhan_server.sign_in_services import assemble_sign_in
from yizhan_server.sliding_sync_services import assemble_sliding_sync
from yizhan_server.storage import installation
from yizhan_server.storage.numbers import Numbers
from yizhan_server.streams import Stream
from yizhan_server.sync.account_data import AccountDataChanges
from yizhan_server.sync.changes import UserChanges
from yizhan_server.sync.event_stream import EventStream
from yizhan_server.sync.lazy_members import LazyMembers
from yizhan_server.sync.rooms import RoomSections
from yizhan_server.sync.sliding.connections import Connections
from yizhan_server.sync.sync import Sync
from yizhan_server.sync.timelines import Timelines

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"

KINDS = (
    "messages", "login", "registration", "email", "joins", "invites", "media", "federation",
    "questions",
)  # fmt: skip
"""Kinds of calls that are limited; each is a section of the settings."""


class OtherInstallation(Exception):
    """The database belongs to a server of another name. The message is for the administrator."""


@dataclass(frozen=True, slots=True)
class Homeserver:
    """The running parts that the program and its tests hold on to."""

    wrapper: Wrapper
    services: Services
    stream: Stream
    flows: AccountFlows
    push: PushDelivery
    appservice_delivery: AppserviceDelivery
    connections: Connections
    outbox: Outbox
    federation_client: FederationClient
    removal: RoomRemoval
    departures: Departures
    incoming: Incoming


async def check_server_name(db: Database, server_name: str) -> None:
    """Bind a new database to the name; refuse one that belongs to another.

    Every event and every signature carries the name: under another one none of them is valid.
    """
    known = await installation.find_server_name(db)
    if known is None:
        tx = Transaction()
        installation.set_server_name(tx, server_name)
        await db.commit(tx)
    elif known != server_name:
        raise OtherInstallation(
            f"这个数据库属于服务器 {known}，不能以 {server_name} 启动；"
            f'请把 server_name 改回 "{known}"，或换一个数据目录。\n'
            f"This database belongs to the server {known} and cannot be started as {server_name}; "
            f'set server_name back to "{known}", or use another data folder.'
        )


def make_limits(settings: RateLimitSettings, clock: Clock, peers: Mapping[str, Rate]) -> RateLimits:
    """Return the configured limits, `peers` by name; none when they are switched off."""
    if not settings.enabled:
        return RateLimits({}, clock)
    rates: dict[str, Rate] = {kind: getattr(settings, kind) for kind in KINDS}
    # Who comes from an address is not yet known: it may be the one that may ask the most.
    all_rates = [settings.federation, *peers.values()]
    rates[PEER_ADDRESS_LIMIT] = RateLimit(
        per_second=max(each.per_second for each in all_rates),
        burst=max(each.burst for each in all_rates),
    )
    special = {(PEER_LIMIT, name): rate for name, rate in peers.items()}
    return RateLimits(rates, clock, settings.exempt_users, special)


def make_appservices(settings: Settings) -> Appservices:
    """Read the registrations of the application services; raises ConfigurationError."""
    files = settings.appservices.registrations
    return Appservices(load_registrations(files, parse_server_name(settings.server_name)))


def federation_client_of(
    settings: Settings, db: Database, clock: Clock, background: Background
) -> AbstractAsyncContextManager[FederationClient]:
    """Return what asks other servers, to be entered."""
    name = parse_server_name(settings.server_name)
    key = SigningKey.parse(read_secret(settings.signing_key_file))
    return open_federation_client(settings.federation, name, key, db, clock, background)


def _outbound_session_of(settings: Settings) -> OutboundSession:
    """Return what calls addresses that people name. Raises ConfigurationError."""
    files = settings.outbound.trusted_ca_files
    context = trusting_context(files, "outbound.trusted_ca_files") if files else None
    return outbound_session(settings.outbound.allow, ssl_context=context)


@asynccontextmanager
async def assembled(settings: Settings, db: Database, clock: Clock) -> AsyncIterator[Homeserver]:
    """Run the homeserver over an open database; what works in the background ends with it."""
    await check_server_name(db, settings.server_name)
    appservices = make_appservices(settings)
    async with (
        _outbound_session_of(settings) as outbound,
        # Of its own: strangers, whose addresses the other one meets, are not to reach bridges.
        outbound_session(appservices.hosts()) as to_appservices,
        Background() as background,
        federation_client_of(settings, db, clock, background) as federation_client,
    ):
        calls = AppserviceCalls(to_appservices)
        homeserver = build(
            settings, db, clock, outbound, background, appservices, calls, federation_client
        )
        await homeserver.services.appservice_accounts.prepare()
        homeserver.services.media.prepare()
        await homeserver.departures.load()
        homeserver.push.start()
        homeserver.appservice_delivery.start()
        homeserver.outbox.start()
        if settings.presence.federated:
            background.keep("presence of newcomers", homeserver.incoming.newly_shared.run)
        background.keep("early receipts", homeserver.incoming.early_receipts.run)
        sessions = homeserver.services.sessions
        background.keep("sessions", sessions.run)
        background.keep("unnamed files", homeserver.services.media.run)
        background.keep("files of other servers", homeserver.services.remote_media.run)
        background.keep("room removals", homeserver.removal.resume)
        background.spawn("ended accounts", homeserver.services.deactivation.resume())
        background.keep("oauth", homeserver.services.oauth_grants.run)
        housekeeping = Housekeeping(db, clock, settings.rooms.redaction_retention_days)
        background.keep("housekeeping", housekeeping.run)
        background.keep("outbox expiry", OutboxExpiry(db, clock).run)
        background.keep("delayed events", homeserver.services.delayed.run)
        retention = Retention(db, clock, homeserver.services.rooms, settings.retention)
        background.keep("retention", retention.run)
        if settings.retention.self_destruction:
            destruction = SelfDestruction(db, homeserver.stream, clock, homeserver.services.rooms)
            background.keep("self-destruction", destruction.run)
        background.keep("url previews", homeserver.services.url_previews.run)
        background.keep("search index", homeserver.services.message_search.run)
        background.keep("sliding connections", homeserver.connections.run)
        try:
            yield homeserver
        finally:
            homeserver.stream.close()
            with suppress(DatabaseUnavailable):
                await sessions.tidy()
            homeserver.services.passwords.close()
            homeserver.services.email_verifications.close()
            homeserver.services.media.close()
            homeserver.services.key_ring.close()


def build(
    settings: Settings,
    db: Database,
    clock: Clock,
    outbound: OutboundSession,
    background: Background,
    appservices: Appservices,
    appservice_calls: AppserviceCalls,
    federation_client: FederationClient,
) -> Homeserver:
    """Build every service, the lower layers first."""
    server_name = parse_server_name(settings.server_name)
    signing_key = SigningKey.parse(read_secret(settings.signing_key_file))
    stream = Stream(db.epoch, db.position)
    numbers = Numbers(db)
    limits = make_limits(settings.rate_limits, clock, settings.federation.peers)
    device_changes = DeviceChanges(db, stream, background)
    personal = assemble_personal_services(
        db, numbers, stream, clock, settings=settings, limits=limits, namespaces=appservices,
        announce_device=device_changes.record_new,
    )  # fmt: skip
    keys = StateKeys(db, numbers)
    rooms = Rooms(db, keys, server_name)
    federation = assemble_federation(settings, db, clock, background, federation_client)
    appservice_queries = AppserviceQueries(appservices, appservice_calls)
    push_evaluation = PushEvaluation(personal.push_rules, personal.ignoring, server_name)
    writing = assemble_writing(
        db, stream, clock, rooms, keys, numbers, push_evaluation, federation_client.rooms,
        server_name, signing_key,
    )  # fmt: skip
    writer = writing.writer
    shared_rooms = assemble_shared_rooms(
        db, stream, clock, rooms, keys, numbers, writing, background, push=push_evaluation,
        client=federation_client, signatures=federation.key_ring, server_name=server_name,
        signing_key=signing_key,
    )  # fmt: skip
    files = FileStore(settings.media.path)
    media = ContentRepository(
        db, clock, files, server_name,
        max_upload_bytes=settings.media.max_upload_bytes,
        is_public=settings.media.unauthenticated_download,
    )  # fmt: skip
    remote = assemble_remote(db, clock, background, federation_client, rooms, media, settings.media)
    profiles = MemberProfiles(personal.accounts, personal.profiles, remote.profiles)
    succession = Succession(db, rooms, RoomSettings(personal.account_data, personal.push_rules))
    members = Members(
        db, stream, rooms, writer, profiles, succession, appservice_queries,
        shared_rooms.handshakes, server_name,
    )  # fmt: skip
    to_device = ToDevice(
        db, stream, clock,
        server_name=server_name, peers=federation_client.peers,
        wake_server=shared_rooms.outbox.wake,
    )  # fmt: skip
    device_lists, departures = DeviceLists(db, stream), Departures(db, stream, clock)
    forgetter = KeyForgetter(device_changes)
    connections = Connections(db, clock)
    remote_keys = assemble_remote_keys(
        db, stream, device_changes, background, federation_client, server_name
    )
    e2ee_keys = Keys(db, device_changes, remote_keys, server_name=server_name)
    flows = assemble_flows(
        db, numbers, clock, personal,
        forgetters=[forgetter.forget_devices, connections.forget_devices],
    )  # fmt: skip
    identity_servers = IdentityServers(outbound, settings.identity.allow, server_name, signing_key)
    identity_bindings = IdentityBindings(db, identity_servers)
    profile_change, deactivation = assemble_room_flows(
        db, personal, flows, members, forgetter.forget_user, identity_bindings.unbind_all
    )
    key_queries = KeyQueries(db, remote_keys, server_name=server_name)
    access = RoomAccess(db, rooms, keys)
    aliases = Aliases(db, rooms, appservice_queries, remote.aliases, server_name)
    relations = Relations(db, access, shared_rooms.backfill, personal.ignoring)
    summaries = RoomSummaries(rooms, shared_rooms.access, remote.summaries)
    renderer = EventRenderer(db, clock, access, relations)
    counter = EphemeralCounter()
    receipts = Receipts(db, stream, clock, shared_rooms.telling.receipt)
    typing = Typing(stream, counter, shared_rooms.telling.typing)
    presence = Presence(
        db, stream, counter, clock, background,
        enabled=settings.presence.enabled,
        tell=shared_rooms.telling.presence if settings.presence.federated else None,
    )  # fmt: skip
    incoming = assemble_incoming(
        db, stream, clock, rooms, shared_rooms, background,
        typing=typing, receipts=receipts, presence=presence,
        believes_presence=settings.presence.federated,
        to_device=to_device, remote_keys=remote_keys, server_name=server_name,
        followers={
            "m.room.guest_access": GuestAccess(members, personal.accounts).send_away,
            "m.room.tombstone": succession.follow_from,
        },
    )  # fmt: skip
    unread = UnreadCounts(db)
    timelines, lazy_members = Timelines(access), LazyMembers()
    sections = RoomSections(db, keys, renderer, timelines, receipts, unread, lazy_members)
    changes = UserChanges(db, keys, access, receipts)
    account_changes = AccountDataChanges(db, personal.push_rules)
    reading = RoomReading(db, rooms, keys, access, aliases, shared_rooms.backfill)
    creation = RoomCreation(
        writer, members, profiles, aliases,
        settings.rooms.default_version, settings.rooms.encrypt_by_default,
    )  # fmt: skip
    device_rename = DeviceRename(personal.sessions, device_changes)
    administration = assemble_administration(
        db, clock, background, server_name,
        personal=personal, flows=flows, profile_change=profile_change, deactivation=deactivation,
        device_rename=device_rename, rooms=rooms, members=members, creation=creation,
        writer=writer, renderer=renderer, aliases=aliases, departures=departures,
        media=media, remote_media=remote.media,
    )  # fmt: skip
    turn_secret = settings.turn.shared_secret_file
    sign_in = assemble_sign_in(settings, db, clock, outbound, personal, flows)
    services = Services(
        db=db,
        server_name=server_name,
        peers=federation_client.peers,
        limits=limits,
        key_ring=federation.key_ring,
        notary=federation.notary,
        discovery=make_discovery(settings),
        turn=Turn(
            clock,
            settings.turn.uris,
            None if turn_secret is None else read_secret(turn_secret),
            settings.turn.user_lifetime_seconds,
        ),
        accounts=personal.accounts,
        sessions=personal.sessions,
        passwords=personal.passwords,
        confirmations=personal.confirmations,
        email_addresses=personal.email_addresses,
        email_verifications=personal.email_verifications,
        registration=personal.registration,
        registration_sessions=RegistrationSessions(
            clock,
            read_secret(settings.signing_key_file),
            settings.sessions.confirmation_lifetime_seconds,
        ),
        shared_secret_registration=personal.shared_secret_registration,
        profiles=personal.profiles,
        remote_profiles=remote.profiles,
        account_data=personal.account_data,
        ignoring=personal.ignoring,
        filters=personal.filters,
        push_rules=personal.push_rules,
        pushers=personal.pushers,
        openid_tokens=OpenidTokens(db, clock, personal.accounts),
        notification_history=NotificationHistory(db, stream, rooms, access, renderer),
        auth_metadata=sign_in.auth_metadata,
        oauth_clients=sign_in.clients,
        oauth_authorizations=sign_in.authorizations,
        oauth_device_codes=sign_in.device_codes,
        oauth_grants=sign_in.grants,
        rendezvous=sign_in.rendezvous,
        sso=sign_in.sso,
        cas=sign_in.cas,
        browser_sessions=personal.browser_sessions,
        identity_resets=personal.identity_resets,
        administration=flows.administration,
        record=flows.record,
        people=administration.people,
        room_administration=administration.rooms,
        media_administration=administration.media,
        token_administration=administration.tokens,
        appservices=appservices,
        appservice_accounts=AppserviceAccounts(
            db, clock, appservices, personal.accounts, personal.sessions
        ),
        appservice_queries=appservice_queries,
        network_directories=NetworkDirectories(db),
        third_party=ThirdParty(appservices, appservice_calls),
        identity_servers=identity_servers,
        identity_bindings=identity_bindings,
        third_party_invites=ThirdPartyInvites(
            identity_servers,
            members,
            writer,
            profiles,
            shared_rooms.access,
            shared_rooms.handshakes,
            federation_client.rooms,
        ),
        federation_status=FederationStatus(
            db, federation_client.peers, federation_client.destinations, shared_rooms.under_way
        ),
        logout=flows.logout,
        dehydration=Dehydration(db, stream, clock, e2ee_keys, to_device, flows.logout),
        device_rename=device_rename,
        password_change=flows.password_change,
        profile_change=profile_change,
        deactivation=deactivation,
        reporting=Reporting(db, numbers, clock, rooms, personal.accounts, server_name),
        rooms=rooms,
        access=access,
        writer=writer,
        delayed=DelayedEvents(db, stream, clock, rooms, writer, settings.delayed_events),
        members=members,
        server_access=shared_rooms.access,
        serving_events=shared_rooms.serving,
        residing=shared_rooms.residing,
        inviting=shared_rooms.handshakes.inviting,
        federation_transactions=incoming.transactions,
        guest_access=GuestAccess(members, personal.accounts),
        creation=creation,
        server_notices=ServerNotices(
            db, rooms, writer, creation, personal.accounts, personal.profiles,
            personal.account_data, settings.server_notices,
        ),
        upgrades=RoomUpgrades(db, writer, profiles, succession),
        aliases=aliases,
        room_reading=reading,
        events_by_time=EventsByTime(db, access, shared_rooms.backfill),
        renderer=renderer,
        relations=relations,
        summaries=summaries,
        hierarchy=SpaceHierarchy(
            db, rooms, summaries, PeerRoomAccess(db, shared_rooms.access), shared_rooms.access,
            remote.summaries,
        ),
        typing=typing,
        presence=presence,
        receipts=receipts,
        to_device=to_device,
        device_lists=device_lists,
        e2ee_keys=e2ee_keys,
        key_queries=key_queries,
        peer_key_queries=PeerKeyQueries(db, key_queries, e2ee_keys, server_name=server_name),
        cross_signing=CrossSigning(db, device_changes),
        signature_uploads=SignatureUploads(db, device_changes),
        key_backups=KeyBackups(db),
        user_directory=UserDirectory(
            db, rooms, server_name, everybody=settings.directory.everybody
        ),
        room_directory=RoomDirectory(
            db, rooms, is_open=settings.directory.rooms_without_sign_in
        ),
        remote_directories=remote.directories,
        message_search=MessageSearch(
            db, rooms, access, reading, renderer, personal.ignoring,
            MessageIndex(db, stream, rooms),
        ),
        media=media,
        remote_media=remote.media,
        url_previews=UrlPreviews(db, clock, media, outbound, settings.url_previews),
        thumbnails=Thumbnails(media, files, settings.media.max_image_pixels),
        sync=Sync(
            db, stream, rooms, access, changes, sections,
            account_changes, counter, typing, presence,
            to_device, device_lists, e2ee_keys, departures,
        ),
        sliding_sync=assemble_sliding_sync(
            db, stream, rooms, keys, access, renderer, connections,
            changes=changes, account_data=account_changes, timelines=timelines,
            lazy_members=lazy_members, receipts=receipts, unread=unread, counter=counter,
            typing=typing, presence=presence, to_device=to_device, device_lists=device_lists,
            e2ee_keys=e2ee_keys,
        ),
        event_stream=EventStream(
            db, stream, rooms, access, reading, renderer, aliases, account_changes, receipts,
            counter, typing, presence,
        ),
    )  # fmt: skip
    wrapper = Wrapper(
        Router([*ROUTES, *PAGES]), services, limits, personal.sessions.authenticate,
        AppserviceIdentities(db, appservices, personal.accounts),
        ClientAddresses(settings.listen.trusted_proxies),
        federation.authentication,
        query_string_tokens=settings.sessions.query_string_tokens,
        compress=settings.listen.compression,
    )  # fmt: skip
    push = PushDelivery(db, stream, clock, rooms, personal.pushers, unread, outbound, background)
    transactions = Transactions(
        db, rooms, Interests(db, rooms), renderer, typing, presence, e2ee_keys
    )
    delivery = AppserviceDelivery(
        db, stream, counter, appservices, transactions, appservice_calls, background
    )
    appservice_queries.on_reached(delivery.note_reached)
    return Homeserver(
        wrapper, services, stream, flows, push, delivery, connections, shared_rooms.outbox,
        federation_client, administration.removal, departures, incoming,
    )  # fmt: skip
