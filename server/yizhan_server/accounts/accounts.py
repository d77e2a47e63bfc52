"""Accounts: who may sign in, by what password, and with what rights.

Whoever changes an account composes one transaction from the `record_*` methods here and those
of the other families; `flows` does that where devices, keys and rooms are concerned too.

Spec: client-server API, "Login", "Account locking".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts import tokens
from yizhan_server.accounts.sessions import (
    NewSession,
    Sessions,
    check_device_id,
    fit_device_name,
    user_locked,
)
from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.protocol.identifiers import (
    InvalidIdentifier,
    ServerName,
    UserID,
    check_new_localpart,
    localpart_of,
    server_name_of,
)
from yizhan_server.storage import accounts as storage
from yizhan_server.storage.email_addresses import delete_addresses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from yizhan_database import Database
    from yizhan_server.accounts.namespaces import NamespaceGuard
    from yizhan_server.accounts.passwords import Passwords
    from yizhan_server.clock import Clock
    from yizhan_server.storage.accounts import Account

LOGIN_TOKEN_LIFETIME_MS = 120_000


class AttemptLimit(Protocol):
    """What bounds the guessing of one account's password, from however many addresses."""

    def check(self, kind: str, caller: str) -> None:
        """Count one attempt; raise M_LIMIT_EXCEEDED when there were too many."""


class Accounts:
    """The local accounts."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        server_name: ServerName,
        sessions: Sessions,
        passwords: Passwords,
        limits: AttemptLimit,
        namespaces: NamespaceGuard,
    ) -> None:
        self._db = db
        self._clock = clock
        self._server_name = server_name
        self._sessions = sessions
        self._passwords = passwords
        self._limits = limits
        self._namespaces = namespaces

    # region finding

    async def find(self, user_id: UserID) -> Account | None:
        """Return an account, deactivated ones included."""
        return await storage.find_account(self._db, user_id)

    async def find_active(self, user_id: UserID) -> Account | None:
        """Return an account that is in use, or None."""
        account = await storage.find_account(self._db, user_id)
        return None if account is None or account.is_deactivated else account

    async def guests_among(self, users: set[UserID]) -> set[UserID]:
        """Return those of these local users who are guests."""
        return await storage.guests_among(self._db, users)

    def scan(self) -> AsyncIterator[Account]:
        """Yield every account, by user id."""
        return storage.scan_accounts(self._db)

    def is_local(self, user_id: str) -> bool:
        """Tell whether the id belongs to this server, whether or not there is such an account."""
        return server_name_of(user_id) == self._server_name

    def find_user_id(self, name: str) -> UserID | None:
        """Return the user id that somebody means by a user name or full id; None if not ours.

        Letter case does not matter: we never make two accounts that differ only in it.
        """
        localpart = name.lower()
        if name.startswith("@"):
            if not self.is_local(name):
                return None
            localpart = localpart_of(localpart)
        try:
            return check_new_localpart(localpart, self._server_name)
        except InvalidIdentifier:
            return None

    # region creating

    def check_name(self, localpart: str) -> UserID:
        """Return the id that a new account would get, or answer M_INVALID_USERNAME."""
        try:
            return check_new_localpart(localpart.lower(), self._server_name)
        except InvalidIdentifier as error:
            raise MatrixError(400, "M_INVALID_USERNAME", str(error)) from None

    async def check_available(self, localpart: str, *, service: str | None = None) -> UserID:
        """Return the id that a new account would get, or answer M_USER_IN_USE or M_EXCLUSIVE.

        `service` is the id of the application service that asks for it.
        """
        user_id = self.check_name(localpart)
        self._namespaces.check_user(user_id, service)
        if await storage.find_account(self._db, user_id) is not None:
            raise user_in_use()
        return user_id

    async def create(
        self,
        localpart: str,
        password: str | None,
        *,
        is_admin: bool = False,
        has_initial_password: bool = False,
        service: str | None = None,
        also: Callable[[Transaction, UserID], None] | None = None,
    ) -> UserID:
        """Create an account; `also` records what else belongs into the same commit.

        Answers M_INVALID_USERNAME, M_EXCLUSIVE, M_USER_IN_USE or M_WEAK_PASSWORD. `also` must
        record no guard.
        """
        user_id = await self.check_available(localpart, service=service)
        password_hash = None if password is None else await self.hash_password(user_id, password)
        tx = Transaction()
        self.record_account(
            tx, user_id, password_hash, is_admin=is_admin, has_initial_password=has_initial_password
        )
        if also is not None:
            also(tx, user_id)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise user_in_use() from None
        return user_id

    def record_account(
        self,
        tx: Transaction,
        user_id: UserID,
        password_hash: str | None,
        *,
        is_admin: bool = False,
        has_initial_password: bool = False,
    ) -> None:
        """Record a new account. Its guard fails when the name is taken."""
        storage.insert_account(
            tx, user_id, password_hash=password_hash, is_admin=is_admin,
            has_initial_password=has_initial_password, now_ms=self._clock.now_ms(),
        )  # fmt: skip

    # region changing

    async def hash_password(self, user_id: UserID, password: str) -> str:
        """Return the hash of a new password, or answer M_WEAK_PASSWORD."""
        self._passwords.check_strength(password, localpart_of(user_id))
        return await self._passwords.hash(password)

    def record_password(
        self, tx: Transaction, user_id: UserID, password_hash: str, *, has_initial_password: bool
    ) -> None:
        """Record a new password; sign-in tokens made under the old one end."""
        storage.update_password(
            tx, user_id, password_hash, has_initial_password=has_initial_password
        )
        storage.delete_login_tokens(tx, user_id)

    def record_locked(self, tx: Transaction, user_id: UserID, *, is_locked: bool) -> None:
        """Record a lock or its end. Tokens stay; they are refused while the lock lasts."""
        storage.update_locked(tx, user_id, is_locked=is_locked)
        tx.after_commit(lambda _: self._sessions.forget_user(user_id))

    def record_suspended(self, tx: Transaction, user_id: UserID, *, is_suspended: bool) -> None:
        """Record a suspension or its end: see `api.suspension` for what it takes away."""
        storage.update_suspended(tx, user_id, is_suspended=is_suspended)
        tx.after_commit(lambda _: self._sessions.forget_user(user_id))

    def record_erasure(self, tx: Transaction, user_id: UserID) -> None:
        """Record that others shall see no more of the account's messages than they have seen."""
        storage.update_erased(tx, user_id)

    def record_admin(self, tx: Transaction, user_id: UserID, *, is_admin: bool) -> None:
        """Record that somebody becomes an administrator, or no longer is one."""
        storage.update_admin(tx, user_id, is_admin=is_admin)
        tx.after_commit(lambda _: self._sessions.forget_user(user_id))

    def record_deactivation(self, tx: Transaction, user_id: UserID) -> None:
        """Record the end of an account: the rows of this family only; see `flows.deactivation`."""
        storage.deactivate_account(tx, user_id, self._clock.now_ms())
        storage.delete_login_tokens(tx, user_id)
        delete_addresses(tx, user_id)

    def record_reactivation(self, tx: Transaction, user_id: UserID) -> None:
        """Record that an account that had ended is in use again, without a password."""
        storage.reactivate_account(tx, user_id)

    # region signing in

    async def check_password(self, name: str, password: str) -> Account:
        """Return the account that `name` and `password` open, or answer M_FORBIDDEN.

        A lock is not looked at here. What an unknown name costs is what a wrong password costs.
        """
        user_id = self.find_user_id(name)
        self._limits.check("login", user_id or name[:255])
        account = None if user_id is None else await storage.find_account(self._db, user_id)
        password_hash = None if account is None else account.password_hash
        is_right = await self._passwords.verify(password, password_hash)
        if account is not None and account.is_deactivated:
            raise MatrixError(403, "M_USER_DEACTIVATED", "This account has been deactivated")
        if account is None or not is_right:
            raise Forbidden("Wrong user name or password")
        return account

    async def sign_in(
        self,
        account: Account,
        *,
        device_id: str | None,
        display_name: str | None,
        refreshable: bool,
        login_token: str | None = None,
    ) -> NewSession:
        """Start a session for an account whose password (or `login_token`) was just checked."""
        if account.is_locked:
            raise user_locked()
        device = check_device_id(device_id)
        nids = await self._sessions.prepare()
        tx = Transaction()
        storage.guard_sign_in(tx, account, self._clock.now_ms())
        if login_token is not None:
            storage.guard_login_token(tx, tokens.digest_of(login_token))
        session = self._sessions.record_start(
            tx, nids, account.user_id, device,
            display_name=fit_device_name(display_name), refreshable=refreshable,
        )  # fmt: skip
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise Forbidden("The account has changed meanwhile; sign in again") from None
        return session

    async def make_login_token(self, user_id: UserID) -> tuple[str, int]:
        """Return a token with which one other client may sign in, and its lifetime in ms."""
        token = tokens.make_token(tokens.LOGIN)
        tx = Transaction()
        storage.insert_login_token(
            tx, tokens.digest_of(token), user_id, self._clock.now_ms() + LOGIN_TOKEN_LIFETIME_MS
        )
        await self._db.commit(tx)
        return token, LOGIN_TOKEN_LIFETIME_MS

    async def check_login_token(self, token: str) -> Account:
        """Return the account that a sign-in token opens, or answer M_FORBIDDEN."""
        user_id = await storage.find_login_token(
            self._db, tokens.digest_of(token), self._clock.now_ms()
        )
        account = None if user_id is None else await self.find_active(user_id)
        if account is None:
            raise Forbidden("The login token is not valid")
        return account


def user_in_use() -> MatrixError:
    """Return the error for a name that is taken."""
    return MatrixError(400, "M_USER_IN_USE", "That user name is taken")
