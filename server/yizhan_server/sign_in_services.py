"""The services of signing in through a browser, wired: a part of the composition root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yizhan_config.secret_files import read_secret
from yizhan_server.api.limits import RateLimits
from yizhan_server.api.oauth import ACCOUNT_PATH, make_auth_metadata
from yizhan_server.oauth.authorization import Authorizations
from yizhan_server.oauth.clients import Clients
from yizhan_server.oauth.device_codes import GUESSES, DeviceCodes
from yizhan_server.oauth.grants import Grants
from yizhan_server.oauth.rendezvous import Rendezvous
from yizhan_server.sso.cas import USER, CasServer
from yizhan_server.sso.provider import Provider
from yizhan_server.sso.sign_in import IdentityProvider, Introduction, SsoSignIn

if TYPE_CHECKING:
    from yizhan_config.outbound import OutboundSession
    from yizhan_config.settings import Settings
    from yizhan_database import Database
    from yizhan_server.account_services import AccountFlows, PersonalServices
    from yizhan_server.clock import Clock


SSO_CALLBACK = f"{ACCOUNT_PATH}/sso/callback"
"""The page that browsers come back to from a provider."""


@dataclass(frozen=True, slots=True)
class _Rate:
    per_second: float
    burst: int


_GUESSING_RATE = _Rate(per_second=1 / 60, burst=20)
"""For user codes. Not a setting: against 20^8 codes this makes guessing hopeless, and a person
types one or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInServices:
    """What pages and OAuth endpoints use."""

    auth_metadata: dict[str, Any]
    clients: Clients
    authorizations: Authorizations
    device_codes: DeviceCodes
    grants: Grants
    rendezvous: Rendezvous
    sso: SsoSignIn | None
    cas: CasServer | None


def assemble_sign_in(
    settings: Settings,
    db: Database,
    clock: Clock,
    outbound: OutboundSession,
    personal: PersonalServices,
    flows: AccountFlows,
) -> SignInServices:
    """Build the authorization server and, where one is configured, the provider's client."""
    clients = Clients(db, clock)
    device_codes = DeviceCodes(db, clock, clients, RateLimits({GUESSES: _GUESSING_RATE}, clock))
    cas = _make_cas(settings, outbound)
    found = _find_provider(settings, clock, outbound, cas)
    sso = None
    if found is not None:
        sso = SsoSignIn(db, clock, *found, personal.accounts, personal.profiles)
    return SignInServices(
        auth_metadata=make_auth_metadata(settings),
        clients=clients,
        authorizations=Authorizations(db, clock, clients),
        device_codes=device_codes,
        grants=Grants(
            db, clock,
            accounts=personal.accounts,
            sessions=personal.sessions,
            clients=clients,
            device_codes=device_codes,
            logout=flows.logout,
        ),
        rendezvous=Rendezvous(clock),
        sso=sso,
        cas=cas,
    )  # fmt: skip


def _make_cas(settings: Settings, outbound: OutboundSession) -> CasServer | None:
    if not settings.sso.cas.server_url:
        return None
    base_url = settings.public.client_baseurl
    return CasServer(settings.sso.cas, base_url, f"{base_url}{SSO_CALLBACK}", outbound)


def _find_provider(
    settings: Settings, clock: Clock, outbound: OutboundSession, cas: CasServer | None
) -> tuple[Introduction, IdentityProvider] | None:
    """Return the one provider that is configured, and how its people become known here."""
    if cas is not None:
        told = settings.sso.cas
        return Introduction(
            "cas", told.name, USER, told.display_name_attribute,
            told.create_accounts, told.link_existing_accounts,
        ), cas  # fmt: skip
    oidc = settings.sso.oidc
    if not oidc.issuer:
        return None
    secret = None if oidc.client_secret_file is None else read_secret(oidc.client_secret_file)
    callback = f"{settings.public.client_baseurl}{SSO_CALLBACK}"
    return Introduction(
        "oidc", oidc.name, oidc.localpart_claim, oidc.display_name_claim,
        oidc.create_accounts, oidc.link_existing_accounts,
    ), Provider(oidc, secret, callback, outbound, clock)  # fmt: skip
