"""OpenID tokens: a service that a user hands one to learns who the user is, and nothing else.

Calls, widgets and identity servers ask for them.

Spec: client-server API, "OpenID"; server-server API, "OpenID".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from yizhan_database import Transaction
from yizhan_server.accounts import tokens
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.storage import openid as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.clock import Clock

LIFETIME_S: Final = 3600


class OpenidTokens:
    """Gives out tokens, and says whose they are."""

    def __init__(self, db: Database, clock: Clock, accounts: Accounts) -> None:
        self._db = db
        self._clock = clock
        self._accounts = accounts

    async def make(self, user_id: UserID) -> str:
        """Return a token that is good for `LIFETIME_S` seconds."""
        token, now_ms = tokens.make_token(tokens.OPENID), self._clock.now_ms()
        tx = Transaction()
        storage.insert_openid_token(
            tx, tokens.digest_of(token), user_id, now_ms + LIFETIME_S * 1000, now_ms
        )
        await self._db.commit(tx)
        return token

    async def find_user(self, token: str) -> UserID:
        """Return whose token it is, or answer M_UNKNOWN_TOKEN."""
        user_id = await storage.find_openid_token(
            self._db, tokens.digest_of(token), self._clock.now_ms()
        )
        if user_id is None or await self._accounts.find_active(UserID(user_id)) is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "The token is not known or has expired")
        return UserID(user_id)
