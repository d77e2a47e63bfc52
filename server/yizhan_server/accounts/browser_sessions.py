"""Browsers that are signed in to the account pages.

The cookie's token is kept as a digest, like every other. A session ends by itself, and with every
change of password, rights or state of the account. `proved_ms` says when the owner last gave the
password (or came from a provider that asked): what cannot be undone demands that to be recent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts import tokens
from yizhan_server.accounts.sessions import user_locked
from yizhan_server.protocol.errors import Forbidden
from yizhan_server.storage import accounts as account_storage
from yizhan_server.storage import browser_sessions as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.storage.accounts import Account

TOKEN = "ybt_"  # noqa: S105 - a prefix
LIFETIME_MS = 12 * 3_600_000
PROOF_LASTS_MS = 600_000


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A signed-in browser, and whose it is."""

    token: str
    account: Account
    is_recently_proved: bool


class BrowserSessions:
    """Starts, finds and ends sessions in browsers."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def start(self, account: Account) -> str:
        """Return the token of a new session for somebody who just proved to be the owner.

        Answers M_USER_LOCKED.
        """
        if account.is_locked:
            raise user_locked()
        token = tokens.make_token(TOKEN)
        now_ms = self._clock.now_ms()
        tx = Transaction()
        account_storage.guard_sign_in(tx, account, now_ms)
        storage.insert_browser_session(
            tx, tokens.digest_of(token), account.user_id, account.ver,
            proved_ms=now_ms, expires_ms=now_ms + LIFETIME_MS,
        )  # fmt: skip
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise Forbidden("The account has changed meanwhile; sign in again") from None
        return token

    async def find(self, token: str | None) -> BrowserSession | None:
        """Return the session of a cookie, None when there is none (any more)."""
        if not token:
            return None
        now_ms = self._clock.now_ms()
        stored = await storage.find_browser_session(self._db, tokens.digest_of(token), now_ms)
        if stored is None:
            return None
        account = await account_storage.find_account(self._db, stored.user_id)
        if account is None or account.is_deactivated or account.is_locked:
            return None
        return BrowserSession(token, account, now_ms - stored.proved_ms < PROOF_LASTS_MS)

    async def end(self, token: str) -> None:
        """End a session."""
        tx = Transaction()
        storage.delete_browser_session(tx, tokens.digest_of(token))
        await self._db.commit(tx)
