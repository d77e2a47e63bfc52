"""Registration: closed, by token, or open; and by the administrator's shared secret.

The shared-secret form is that of Synapse (`/_synapse/admin/v1/register`), which existing
provisioning tools speak: a nonce from us, and an HMAC-SHA1 over it and what is to be created.

Spec: client-server API, "Account registration", "Token-authenticated registration".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts.accounts import Accounts, user_in_use
from yizhan_server.accounts.confirmation import (
    DUMMY,
    EMAIL,
    REGISTRATION_TOKEN,
    Confirmed,
    Flow,
)
from yizhan_server.accounts.email_addresses import EmailAddresses, address_in_use
from yizhan_server.accounts.email_verification import NotVerified
from yizhan_server.accounts.letters import REGISTER
from yizhan_server.accounts.sessions import (
    NewSession,
    Sessions,
    check_device_id,
    fit_device_name,
)
from yizhan_server.protocol.errors import BadJson, Forbidden, MatrixError
from yizhan_server.protocol.identifiers import UserID, localpart_of
from yizhan_server.storage import accounts as storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_config.settings import Registration as RegistrationSettings
    from yizhan_database import Database
    from yizhan_server.accounts.email_verification import EmailVerifications
    from yizhan_server.accounts.requester import Requester
    from yizhan_server.clock import Clock
    from yizhan_server.storage.accounts import Account
    from yizhan_server.storage.email_addresses import Verification

_NONCE_LIFETIME_MS = 60_000
_MAX_NONCES = 1000


class Registration:
    """Creates accounts for people who ask for one themselves."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        settings: RegistrationSettings,
        accounts: Accounts,
        sessions: Sessions,
        emails: EmailAddresses,
        verifications: EmailVerifications,
        record_display_name: Callable[[Transaction, UserID, str], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._emails = emails
        self._verifications = verifications
        self._accounts = accounts
        self._sessions = sessions
        self._record_display_name = record_display_name

    @property
    def is_open(self) -> bool:
        """Whether anybody may create an account, with or without a token."""
        return self._settings.enabled

    @property
    def requires_token(self) -> bool:
        """Whether that takes a registration token."""
        return self._settings.require_token

    @property
    def requires_email(self) -> bool:
        """Whether that takes an e-mail address."""
        return self._settings.require_email

    def get_flows(self) -> tuple[Flow, ...]:
        """Return what must be passed before an account is created, or answer M_FORBIDDEN."""
        if not self._settings.enabled:
            raise Forbidden("Registration is disabled")
        # The dummy stage is what clients know from other servers. Behind a token it lets them show
        # that it was right before they ask for a password.
        last: Flow = () if self._settings.require_email else (DUMMY,)
        if self._emails.is_enabled:
            last = (*last, EMAIL)
        first = (REGISTRATION_TOKEN,) if self._settings.require_token else ()
        return tuple((*first, stage) for stage in last)

    async def check_available(self, localpart: str) -> UserID:
        """Answer M_FORBIDDEN, M_INVALID_USERNAME or M_USER_IN_USE unless the name may be had."""
        self.get_flows()
        return await self._accounts.check_available(localpart)

    def make_localpart(self) -> str:
        """Return a user name for somebody who wants none in particular."""
        return secrets.token_hex(6)

    async def find_repeated(self, username: str, password: str) -> Account | None:
        """Return the account if it exists with this password; M_USER_IN_USE for another one.

        For a registration whose answer may have been lost.
        """
        user_id = self._accounts.find_user_id(username)
        if user_id is None or await self._accounts.find_active(user_id) is None:
            return None
        try:
            return await self._accounts.check_password(username, password)
        except Forbidden:
            raise user_in_use() from None

    async def register_guest(
        self, device_name: str | None, *, refreshable: bool
    ) -> tuple[UserID, NewSession]:
        """Create a guest's account and its session, or answer M_GUEST_ACCESS_FORBIDDEN."""
        if not self._settings.guests:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests are not admitted")
        user_id = await self._accounts.check_available(self.make_localpart())
        nids = await self._sessions.prepare()
        tx = Transaction()
        self._accounts.record_account(tx, user_id, None)
        storage.mark_guest(tx, user_id, is_guest=True)
        self._record_display_name(tx, user_id, localpart_of(user_id))
        session = self._sessions.record_start(
            tx,
            nids,
            user_id,
            check_device_id(None),
            display_name=fit_device_name(device_name),
            refreshable=refreshable,
        )
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise user_in_use() from None
        return user_id, session

    async def upgrade_guest(
        self,
        guest: Requester,
        username: str | None,
        password: str,
        confirmed: Confirmed,
        *,
        refreshable: bool,
    ) -> tuple[UserID, NewSession]:
        """Give a guest a password, and a session in place of the guest's."""
        user_id = self.check_guest(guest, username)
        verified = await self._find_verified(confirmed)
        password_hash = await self._accounts.hash_password(user_id, password)
        nids = await self._sessions.prepare()
        tx = Transaction()
        self._accounts.record_password(tx, user_id, password_hash, has_initial_password=False)
        storage.mark_guest(tx, user_id, is_guest=False)
        if verified is not None:
            self._emails.record_addition(tx, user_id, verified)
        session = self._sessions.record_start(
            tx, nids, user_id, guest.device_id, display_name=None, refreshable=refreshable
        )
        tx.after_commit(lambda _: self._sessions.forget_user(user_id))
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise Forbidden("This is no longer a guest") from None
        return user_id, session

    def check_guest(self, guest: Requester, username: str | None) -> UserID:
        """Return the guest's own id; M_FORBIDDEN for who is no guest, or names another user."""
        if not guest.is_guest or username != localpart_of(guest.user_id):
            raise Forbidden("'guest_access_token' must be of the guest whom 'username' names")
        return guest.user_id

    async def register(
        self,
        username: str | None,
        password: str,
        confirmed: Confirmed,
        *,
        device_id: str | None,
        device_name: str | None,
        refreshable: bool,
        inhibit_login: bool,
    ) -> tuple[UserID, NewSession | None]:
        """Create the account and, unless inhibited, a session for it, in one commit."""
        verified = await self._find_verified(confirmed)
        user_id = await self._accounts.check_available(username or self.make_localpart())
        password_hash = await self._accounts.hash_password(user_id, password)
        device = check_device_id(device_id)
        nids = await self._sessions.prepare()
        tx = Transaction()
        failures = [user_in_use()]
        if confirmed.registration_token is not None:
            storage.guard_registration_token(tx, confirmed.registration_token, self._clock.now_ms())
            failures.insert(0, Forbidden("The registration token is used up"))
        self._accounts.record_account(tx, user_id, password_hash)
        if verified is not None:
            self._emails.record_addition(tx, user_id, verified)
            failures += [address_in_use(), NotVerified()]
        self._record_display_name(tx, user_id, localpart_of(user_id))
        session = None
        if not inhibit_login:
            session = self._sessions.record_start(
                tx, nids, user_id, device,
                display_name=fit_device_name(device_name), refreshable=refreshable,
            )  # fmt: skip
        try:
            await self._db.commit(tx)
        except GuardFailed as failed:
            raise failures[failed.index] from None
        return user_id, session

    async def _find_verified(self, confirmed: Confirmed) -> Verification | None:
        """Return the verified address of a registration, M_THREEPID_IN_USE if it has an owner."""
        if confirmed.email_sid is None:
            return None
        verified = await self._verifications.get_validated(REGISTER, confirmed.email_sid, None)
        await self._emails.check_free(verified.address)
        return verified

    async def make_token(
        self,
        uses_allowed: int | None,
        lifetime_ms: int | None,
        *,
        also: Callable[[Transaction], None],
    ) -> str:
        """Return a new registration token; `also` records what else belongs into the commit."""
        now_ms = self._clock.now_ms()
        token = secrets.token_urlsafe(12)
        tx = Transaction()
        expires_ms = None if lifetime_ms is None else now_ms + lifetime_ms
        storage.insert_registration_token(tx, token, uses_allowed, expires_ms, now_ms)
        also(tx)
        await self._db.commit(tx)
        return token


class SharedSecretRegistration:
    """Creates accounts for whoever knows the shared secret, while registration is closed too."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        secret: str | None,
        accounts: Accounts,
        sessions: Sessions,
        record_display_name: Callable[[Transaction, UserID, str], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._secret = secret
        self._accounts = accounts
        self._sessions = sessions
        self._record_display_name = record_display_name
        self._nonces: dict[str, int] = {}

    def make_nonce(self) -> str:
        """Return a nonce, good for one registration within a minute."""
        self._get_secret()
        now_ms = self._clock.now_ms()
        self._nonces = {nonce: until for nonce, until in self._nonces.items() if until > now_ms}
        if len(self._nonces) >= _MAX_NONCES:
            del self._nonces[next(iter(self._nonces))]
        nonce = secrets.token_hex(32)
        self._nonces[nonce] = now_ms + _NONCE_LIFETIME_MS
        return nonce

    async def register(
        self,
        *,
        nonce: str,
        mac: str,
        username: str,
        password: str,
        is_admin: bool,
        display_name: str | None,
        user_type: str | None,
        inhibit_login: bool,
        also: Callable[[Transaction, UserID], None] | None = None,
    ) -> tuple[UserID, NewSession | None]:
        """Create the account if the MAC is right; `also` records what belongs into its commit."""
        secret = self._get_secret()
        if self._nonces.pop(nonce, 0) <= self._clock.now_ms():
            raise MatrixError(400, "M_UNKNOWN", "Unrecognised nonce")
        if any("\0" in part for part in (username, password, user_type or "")):
            raise BadJson("NUL is not allowed")
        parts = [nonce, username, password, "admin" if is_admin else "notadmin"]
        if user_type is not None:
            parts.append(user_type)
        # SHA-1 because the existing tools use it; as an HMAC it is not known to be weak.
        expected = hmac.new(secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()
        if not hmac.compare_digest(expected.encode(), mac.lower().encode("utf-8", "replace")):
            raise Forbidden("The MAC is not right")
        nids = await self._sessions.prepare()
        session: NewSession | None = None

        def complete(tx: Transaction, user_id: UserID) -> None:
            nonlocal session
            self._record_display_name(tx, user_id, display_name or localpart_of(user_id))
            if not inhibit_login:
                session = self._sessions.record_start(
                    tx, nids, user_id, check_device_id(None), display_name=None, refreshable=False
                )
            if also is not None:
                also(tx, user_id)

        user_id = await self._accounts.create(username, password, is_admin=is_admin, also=complete)
        return user_id, session

    def _get_secret(self) -> str:
        if self._secret is None:
            raise MatrixError(400, "M_UNKNOWN", "Shared secret registration is not enabled")
        return self._secret
