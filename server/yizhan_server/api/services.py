"""The services that handlers may call, built once by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.accounts.account_data import AccountData
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.browser_sessions import BrowserSessions
    from yizhan_server.accounts.confirmation import Confirmations
    from yizhan_server.accounts.email_addresses import EmailAddresses
    from yizhan_server.accounts.email_verification import EmailVerifications
    from yizhan_server.accounts.filters import Filters
    from yizhan_server.accounts.identity_reset import IdentityResets
    from yizhan_server.accounts.ignoring import Ignoring
    from yizhan_server.accounts.openid import OpenidTokens
    from yizhan_server.accounts.passwords import Passwords
    from yizhan_server.accounts.profiles import Profiles
    from yizhan_server.accounts.push_rules import PushRules
    from yizhan_server.accounts.pushers import Pushers
    from yizhan_server.accounts.registration import Registration, SharedSecretRegistration
    from yizhan_server.accounts.registration_sessions import RegistrationSessions
    from yizhan_server.accounts.remote_profiles import RemoteProfiles
    from yizhan_server.accounts.sessions import Sessions
    from yizhan_server.admin.administration import UserAdministration
    from yizhan_server.admin.federation_status import FederationStatus
    from yizhan_server.admin.media import MediaAdministration
    from yizhan_server.admin.people import PeopleAdministration
    from yizhan_server.admin.record import Record
    from yizhan_server.admin.rooms import RoomAdministration
    from yizhan_server.admin.tokens import TokenAdministration
    from yizhan_server.api.discovery import Discovery, Turn
    from yizhan_server.api.limits import RateLimits
    from yizhan_server.appservices.accounts import AppserviceAccounts
    from yizhan_server.appservices.directory import NetworkDirectories
    from yizhan_server.appservices.queries import AppserviceQueries
    from yizhan_server.appservices.registered import Appservices
    from yizhan_server.appservices.third_party import ThirdParty
    from yizhan_server.e2ee.cross_signing import CrossSigning
    from yizhan_server.e2ee.device_lists import DeviceLists
    from yizhan_server.e2ee.key_backup import KeyBackups
    from yizhan_server.e2ee.key_queries import KeyQueries
    from yizhan_server.e2ee.keys import Keys
    from yizhan_server.e2ee.peer_queries import PeerKeyQueries
    from yizhan_server.e2ee.signature_uploads import SignatureUploads
    from yizhan_server.e2ee.to_device import ToDevice
    from yizhan_server.ephemeral.presence import Presence
    from yizhan_server.ephemeral.receipts import Receipts
    from yizhan_server.ephemeral.typing import Typing
    from yizhan_server.federation.transactions import IncomingTransactions
    from yizhan_server.federation_client.key_ring import KeyRing
    from yizhan_server.federation_client.notary import Notary
    from yizhan_server.federation_client.peers import Peers
    from yizhan_server.flows.deactivation import Deactivation
    from yizhan_server.flows.dehydration import Dehydration
    from yizhan_server.flows.device_rename import DeviceRename
    from yizhan_server.flows.logout import Logout
    from yizhan_server.flows.password_change import PasswordChange
    from yizhan_server.flows.profile_change import ProfileChange
    from yizhan_server.flows.reporting import Reporting
    from yizhan_server.flows.server_notices import ServerNotices
    from yizhan_server.flows.third_party_invites import ThirdPartyInvites
    from yizhan_server.identity.bindings import IdentityBindings
    from yizhan_server.identity.servers import IdentityServers
    from yizhan_server.media.previews import UrlPreviews
    from yizhan_server.media.remote_media import RemoteMedia
    from yizhan_server.media.repository import ContentRepository
    from yizhan_server.media.thumbnails import Thumbnails
    from yizhan_server.oauth.authorization import Authorizations
    from yizhan_server.oauth.clients import Clients
    from yizhan_server.oauth.device_codes import DeviceCodes
    from yizhan_server.oauth.grants import Grants
    from yizhan_server.oauth.rendezvous import Rendezvous
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.push.history import NotificationHistory
    from yizhan_server.rooms.access import RoomAccess
    from yizhan_server.rooms.aliases import Aliases
    from yizhan_server.rooms.creation import RoomCreation
    from yizhan_server.rooms.delayed import DelayedEvents
    from yizhan_server.rooms.events_by_time import EventsByTime
    from yizhan_server.rooms.guest_access import GuestAccess
    from yizhan_server.rooms.handshakes.inviting import Inviting
    from yizhan_server.rooms.handshakes.residing import Residing
    from yizhan_server.rooms.hierarchy import SpaceHierarchy
    from yizhan_server.rooms.members import Members
    from yizhan_server.rooms.reading import RoomReading
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.rooms.relations import Relations
    from yizhan_server.rooms.rendering import EventRenderer
    from yizhan_server.rooms.server_access import ServerAccess
    from yizhan_server.rooms.serving_events import ServingEvents
    from yizhan_server.rooms.summaries import RoomSummaries
    from yizhan_server.rooms.upgrade import RoomUpgrades
    from yizhan_server.rooms.writer import EventWriter
    from yizhan_server.search.messages import MessageSearch
    from yizhan_server.search.remote_directories import RemoteDirectories
    from yizhan_server.search.room_directory import RoomDirectory
    from yizhan_server.search.user_directory import UserDirectory
    from yizhan_server.sso.cas import CasServer
    from yizhan_server.sso.sign_in import SsoSignIn
    from yizhan_server.sync.event_stream import EventStream
    from yizhan_server.sync.sliding.sliding_sync import SlidingSync
    from yizhan_server.sync.sync import Sync


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One field per service; a handler takes what it needs from here."""

    db: Database
    server_name: ServerName
    peers: Peers
    limits: RateLimits
    key_ring: KeyRing
    notary: Notary
    discovery: Discovery
    turn: Turn
    accounts: Accounts
    sessions: Sessions
    passwords: Passwords
    confirmations: Confirmations
    email_addresses: EmailAddresses
    email_verifications: EmailVerifications
    registration: Registration
    registration_sessions: RegistrationSessions
    shared_secret_registration: SharedSecretRegistration
    profiles: Profiles
    remote_profiles: RemoteProfiles
    account_data: AccountData
    ignoring: Ignoring
    filters: Filters
    push_rules: PushRules
    pushers: Pushers
    openid_tokens: OpenidTokens
    notification_history: NotificationHistory
    auth_metadata: dict[str, Any]
    oauth_clients: Clients
    oauth_authorizations: Authorizations
    oauth_device_codes: DeviceCodes
    oauth_grants: Grants
    rendezvous: Rendezvous
    sso: SsoSignIn | None
    cas: CasServer | None
    browser_sessions: BrowserSessions
    identity_resets: IdentityResets
    administration: UserAdministration
    record: Record
    people: PeopleAdministration
    room_administration: RoomAdministration
    media_administration: MediaAdministration
    token_administration: TokenAdministration
    appservices: Appservices
    appservice_accounts: AppserviceAccounts
    appservice_queries: AppserviceQueries
    network_directories: NetworkDirectories
    third_party: ThirdParty
    identity_servers: IdentityServers
    identity_bindings: IdentityBindings
    third_party_invites: ThirdPartyInvites
    federation_status: FederationStatus
    logout: Logout
    device_rename: DeviceRename
    dehydration: Dehydration
    password_change: PasswordChange
    profile_change: ProfileChange
    deactivation: Deactivation
    reporting: Reporting
    server_notices: ServerNotices
    rooms: Rooms
    access: RoomAccess
    writer: EventWriter
    delayed: DelayedEvents
    members: Members
    server_access: ServerAccess
    serving_events: ServingEvents
    residing: Residing
    inviting: Inviting
    federation_transactions: IncomingTransactions
    guest_access: GuestAccess
    creation: RoomCreation
    upgrades: RoomUpgrades
    aliases: Aliases
    room_reading: RoomReading
    events_by_time: EventsByTime
    renderer: EventRenderer
    relations: Relations
    summaries: RoomSummaries
    hierarchy: SpaceHierarchy
    typing: Typing
    presence: Presence
    receipts: Receipts
    to_device: ToDevice
    device_lists: DeviceLists
    e2ee_keys: Keys
    key_queries: KeyQueries
    peer_key_queries: PeerKeyQueries
    cross_signing: CrossSigning
    signature_uploads: SignatureUploads
    key_backups: KeyBackups
    user_directory: UserDirectory
    room_directory: RoomDirectory
    remote_directories: RemoteDirectories
    message_search: MessageSearch
    media: ContentRepository
    remote_media: RemoteMedia
    url_previews: UrlPreviews
    thumbnails: Thumbnails
    sync: Sync
    sliding_sync: SlidingSync
    event_stream: EventStream
