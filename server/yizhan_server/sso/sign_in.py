"""From a browser that comes back from a provider to an account here.

Whom a subject is here is decided once and kept. The first time, its user name is taken from a
claim; an account that has that name already is *not* handed over, unless the configuration says
that the provider's names and ours are the same people's.

Spec: client-server API, "SSO client login/authentication".
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts import tokens
from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.sso.provider import Attempt, ProviderFailed
from yizhan_server.storage import browser_sessions as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.profiles import Profiles
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.storage.accounts import Account

log = logging.getLogger(__name__)

ATTEMPT_LASTS_MS = 600_000
_MAX_ATTEMPTS = 10_000


class IdentityProvider(Protocol):
    """Who vouches for people."""

    @property
    def issuer(self) -> str:
        """What its names are remembered under."""
        ...

    async def authorization_url(self, attempt: Attempt, *, again: bool) -> str:
        """Return where the browser is sent (to be asked `again`, if so); ProviderFailed."""
        ...

    async def redeem(self, attempt: Attempt, code: str) -> dict[str, Any]:
        """Return the claims about who signed in, `sub` among them; ProviderFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Introduction:
    """How somebody whom the provider sends for the first time becomes known here."""

    idp_id: str
    name: str
    """What people call the provider."""
    localpart_claim: str
    display_name_claim: str
    create_accounts: bool
    link_existing_accounts: bool


@dataclass(frozen=True, slots=True)
class _Pending:
    attempt: Attempt
    browser: bytes
    target: str
    expires_ms: int


class SignInFailed(Exception):
    """Somebody cannot be signed in; `reason` is a key of the pages' sentences."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SsoSignIn:
    """Signs people in through one provider."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        settings: Introduction,
        provider: IdentityProvider,
        accounts: Accounts,
        profiles: Profiles,
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._provider = provider
        self._accounts = accounts
        self._profiles = profiles
        # In memory, for anybody may begin a sign-in: they must not fill the database. The oldest
        # makes room.
        self._pending: OrderedDict[str, _Pending] = OrderedDict()

    @property
    def idp_id(self) -> str:
        """What clients call the provider."""
        return self._settings.idp_id

    @property
    def name(self) -> str:
        """What people call the provider."""
        return self._settings.name

    async def begin(self, target: str, *, again: bool = False) -> tuple[str, str]:
        """Return where to send the browser, and the secret that it has to bring back.

        `target` is the page of ours that the browser goes to in the end. With `again` the provider
        shall not rely on an earlier sign-in. Raises SignInFailed.
        """
        attempt = Attempt(*(secrets.token_urlsafe(32) for _ in range(3)))
        browser = secrets.token_urlsafe(32)
        try:
            url = await self._provider.authorization_url(attempt, again=again)
        except ProviderFailed as error:
            raise provider_failed(error) from None
        now_ms = self._clock.now_ms()
        while self._pending and (
            len(self._pending) >= _MAX_ATTEMPTS
            or next(iter(self._pending.values())).expires_ms <= now_ms
        ):
            self._pending.popitem(last=False)
        self._pending[attempt.state] = _Pending(
            attempt, tokens.digest_of(browser), target, now_ms + ATTEMPT_LASTS_MS
        )
        return url, browser

    async def complete(
        self, state: str, browser: str | None, code: str | None
    ) -> tuple[Account, str]:
        """Return who came back, and the page they are to go to; SignInFailed or a MatrixError.

        `browser` is what `begin` gave to the browser that began: without it, somebody could sign
        another person in to an account of their own.
        """
        pending = self._pending.get(state)
        if (
            pending is None
            or pending.expires_ms <= self._clock.now_ms()
            or browser is None
            or not secrets.compare_digest(tokens.digest_of(browser), pending.browser)
        ):
            raise SignInFailed("expired")
        del self._pending[state]
        if code is None:
            raise SignInFailed("refused")
        try:
            claims = await self._provider.redeem(pending.attempt, code)
        except ProviderFailed as error:
            raise provider_failed(error) from None
        return await self.find_or_create(claims), pending.target

    async def find_or_create(self, claims: dict[str, Any]) -> Account:
        """Return whose account the provider's claims open; SignInFailed or a MatrixError."""
        issuer, subject = self._provider.issuer, claims["sub"]
        user_id = await storage.find_linked_user(self._db, issuer, subject)
        if user_id is None:
            user_id = await self._introduce(issuer, subject, claims)
        account = await self._accounts.find_active(user_id)
        if account is None:
            raise MatrixError(403, "M_USER_DEACTIVATED", "This account has been deactivated")
        return account

    async def _introduce(self, issuer: str, subject: str, claims: dict[str, Any]) -> UserID:
        claim = claims.get(self._settings.localpart_claim)
        if not isinstance(claim, str) or not claim:
            log.warning("the provider did not tell the claim that names people")
            raise SignInFailed("no_name")
        localpart = encode_localpart(claim)
        try:
            known = await self._accounts.find(self._accounts.check_name(localpart))
        except MatrixError:
            raise SignInFailed("no_name") from None
        now_ms = self._clock.now_ms()
        if known is not None:
            # What stands behind an @ is not ours to judge: two addresses may share a name.
            if not self._settings.link_existing_accounts or "@" in claim:
                raise SignInFailed("taken")
            tx = Transaction()
            storage.guard_link(tx, issuer, subject, known.user_id, now_ms)
            try:
                await self._db.commit(tx)
            except GuardFailed:
                raise Forbidden("Somebody else was faster; sign in again") from None
            return known.user_id
        if not self._settings.create_accounts:
            raise SignInFailed("unknown")
        name = claims.get(self._settings.display_name_claim)

        def also(tx: Transaction, user_id: UserID) -> None:
            if isinstance(name, str) and name and len(name) <= 255 and "\0" not in name:
                self._profiles.record_display_name(tx, user_id, name)
            storage.insert_link(tx, issuer, subject, user_id, now_ms)

        return await self._accounts.create(localpart, None, also=also)


def encode_localpart(claim: str) -> str:
    """Return a user name made of a claim: its part before an @, other bytes written =xx.

    Spec: appendices, "Mapping from other character sets".
    """
    allowed = b"abcdefghijklmnopqrstuvwxyz0123456789._-/+"
    name = claim.partition("@")[0] or claim
    # Of bytes, for text has letters beyond ASCII whose lower case lies within it.
    encoded = name.encode("utf-8", "surrogatepass").lower()
    return "".join(chr(byte) if byte in allowed else f"={byte:02x}" for byte in encoded)


def provider_failed(error: ProviderFailed) -> SignInFailed:
    """Log what the provider did, and return what the person is told."""
    log.warning("sign-in through the provider failed", extra={"why": str(error)})
    return SignInFailed("provider")
