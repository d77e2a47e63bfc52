"""The account services, wired: for `app`, which serves them, and for `yizhan user` without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from yizhan_config.authorities import trusting_context
from yizhan_config.secret_files import read_secret
from yizhan_server.accounts.account_data import AccountData
from yizhan_server.accounts.accounts import Accounts, AttemptLimit
from yizhan_server.accounts.browser_sessions import BrowserSessions
from yizhan_server.accounts.confirmation import Confirmations
from yizhan_server.accounts.confirmation_sessions import ConfirmationSessions
from yizhan_server.accounts.email_addresses import EmailAddresses
from yizhan_server.accounts.email_verification import ADDRESS_LIMIT, EmailVerifications
from yizhan_server.accounts.filters import Filters
from yizhan_server.accounts.identity_reset import IdentityResets
from yizhan_server.accounts.ignoring import Ignoring
from yizhan_server.accounts.mail_sender import MailSender
from yizhan_server.accounts.passwords import Passwords
from yizhan_server.accounts.profiles import Profiles
from yizhan_server.accounts.push_rules import PushRules
from yizhan_server.accounts.pushers import Pushers
from yizhan_server.accounts.registration import Registration, SharedSecretRegistration
from yizhan_server.accounts.sessions import DeviceAnnouncer, Sessions
from yizhan_server.admin.administration import UserAdministration
from yizhan_server.admin.record import Record
from yizhan_server.api.limits import RateLimits
from yizhan_server.api.oauth import ACCOUNT_PATH
from yizhan_server.flows.deactivation import Deactivation, RoomLeaver
from yizhan_server.flows.logout import DeviceForgetter, Logout
from yizhan_server.flows.password_change import PasswordChange
from yizhan_server.flows.profile_change import OwnMemberEvents, ProfileChange
from yizhan_server.protocol.identifiers import parse_server_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from yizhan_config.settings import Settings
    from yizhan_database import Database, Transaction
    from yizhan_server.accounts.namespaces import NamespaceGuard
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.storage.numbers import Numbers
    from yizhan_server.streams import Stream


@dataclass(frozen=True, slots=True)
class _Rate:
    per_second: float
    burst: int


_MAIL_RATE = _Rate(per_second=1 / 600, burst=3)
"""For mails to one address, whoever asks. Not a setting: a person needs one, or one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalServices:
    """What can be built before there are rooms."""

    accounts: Accounts
    sessions: Sessions
    passwords: Passwords
    confirmations: Confirmations
    email_addresses: EmailAddresses
    email_verifications: EmailVerifications
    registration: Registration
    shared_secret_registration: SharedSecretRegistration
    profiles: Profiles
    account_data: AccountData
    ignoring: Ignoring
    filters: Filters
    push_rules: PushRules
    pushers: Pushers
    identity_resets: IdentityResets
    browser_sessions: BrowserSessions


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFlows:
    """What crosses aggregates."""

    logout: Logout
    password_change: PasswordChange
    record: Record
    administration: UserAdministration


class Rooms(OwnMemberEvents, RoomLeaver, Protocol):
    """What rooms do for accounts."""


def assemble_personal_services(
    db: Database,
    numbers: Numbers,
    stream: Stream,
    clock: Clock,
    *,
    settings: Settings,
    limits: AttemptLimit,
    namespaces: NamespaceGuard,
    announce_device: DeviceAnnouncer,
) -> PersonalServices:
    """Build the services of one's own; `passwords.close` ends their threads."""
    sessions = Sessions(db, numbers, clock, settings.sessions, announce_device)
    passwords = Passwords(settings.registration.minimum_password_length)
    accounts = Accounts(
        db,
        clock,
        server_name=parse_server_name(settings.server_name),
        sessions=sessions,
        passwords=passwords,
        limits=limits,
        namespaces=namespaces,
    )
    profiles = Profiles(db)
    ignoring = Ignoring(db)
    emails = EmailAddresses(db, clock, is_enabled=bool(settings.email.host))
    verifications = EmailVerifications(
        db, clock, accounts, emails,
        sender=_make_mail_sender(settings),
        limits=RateLimits({ADDRESS_LIMIT: _MAIL_RATE}, clock),
        page=f"{settings.public.client_baseurl}{ACCOUNT_PATH}/email",
        server_name=settings.server_name,
    )  # fmt: skip
    secret_file = settings.registration.shared_secret_file
    lifetime_seconds = settings.sessions.confirmation_lifetime_seconds
    return PersonalServices(
        accounts=accounts,
        sessions=sessions,
        passwords=passwords,
        confirmations=Confirmations(
            db,
            clock,
            accounts,
            ConfirmationSessions(clock, read_secret(settings.signing_key_file), lifetime_seconds),
            lifetime_seconds,
            emails=emails,
            verifications=verifications,
            has_provider=bool(settings.sso.oidc.issuer or settings.sso.cas.server_url),
        ),
        email_addresses=emails,
        email_verifications=verifications,
        registration=Registration(
            db,
            clock,
            settings=settings.registration,
            accounts=accounts,
            sessions=sessions,
            emails=emails,
            verifications=verifications,
            record_display_name=profiles.record_display_name,
        ),
        shared_secret_registration=SharedSecretRegistration(
            db,
            clock,
            secret=read_secret(secret_file) if secret_file.exists() else None,
            accounts=accounts,
            sessions=sessions,
            record_display_name=profiles.record_display_name,
        ),
        profiles=profiles,
        account_data=AccountData(db, stream, ignoring),
        ignoring=ignoring,
        filters=Filters(db),
        push_rules=PushRules(db, stream),
        pushers=Pushers(db, stream, clock),
        identity_resets=IdentityResets(db, clock),
        browser_sessions=BrowserSessions(db, clock),
    )


def _make_mail_sender(settings: Settings) -> MailSender | None:
    email = settings.email
    if not email.host:
        return None
    password = None if email.password_file is None else read_secret(email.password_file)
    authorities = trusting_context(settings.outbound.trusted_ca_files, "outbound.trusted_ca_files")
    return MailSender(email, password, authorities)


def assemble_flows(
    db: Database,
    numbers: Numbers,
    clock: Clock,
    personal: PersonalServices,
    *,
    forgetters: Sequence[DeviceForgetter],
) -> AccountFlows:
    """Build the flows; `forgetters` are those of other families, such as end-to-end keys."""
    logout = Logout(db, personal.sessions, [*forgetters, personal.pushers.record_end_of_devices])
    password_change = PasswordChange(
        db, personal.accounts, logout,
        emails=personal.email_addresses, verifications=personal.email_verifications,
    )  # fmt: skip
    record = Record(db, numbers, clock)
    return AccountFlows(
        logout=logout,
        password_change=password_change,
        record=record,
        administration=UserAdministration(
            db,
            record,
            accounts=personal.accounts,
            profiles=personal.profiles,
            password_change=password_change,
            registration=personal.registration,
            identity_resets=personal.identity_resets,
        ),
    )


def assemble_room_flows(
    db: Database,
    personal: PersonalServices,
    flows: AccountFlows,
    rooms: Rooms,
    forget_identity: Callable[[Transaction, UserID], None],
    unbind_addresses: Callable[[UserID], Awaitable[bool]],
) -> tuple[ProfileChange, Deactivation]:
    """Build the flows that rooms take part in."""
    return (
        ProfileChange(personal.profiles, rooms),
        Deactivation(
            db,
            accounts=personal.accounts,
            profiles=personal.profiles,
            logout=flows.logout,
            rooms=rooms,
            forget_identity=forget_identity,
            unbind_addresses=unbind_addresses,
        ),
    )
