"""Acts of administrators upon registration tokens. The record names limits, never the token."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Transaction
from yizhan_server.protocol.canonical_json import MAX_INTEGER
from yizhan_server.protocol.errors import InvalidParam, NotFound
from yizhan_server.storage import registration_tokens as storage
from yizhan_server.storage.registration_tokens import StoredToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_database import Database
    from yizhan_server.admin.gate import Administrator
    from yizhan_server.admin.record import Record
    from yizhan_server.clock import Clock

# Spec: client-server API, "Token-authenticated registration": opaque identifiers of 1 to 64.
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,64}", re.ASCII)


class TokenAdministration:
    """What an administrator may do to registration tokens."""

    def __init__(self, db: Database, clock: Clock, record: Record) -> None:
        self._db = db
        self._clock = clock
        self._record = record

    async def list_tokens(self, *, valid: bool | None) -> list[StoredToken]:
        """Return the tokens: all, or those that can be used now, or the others."""
        now_ms = self._clock.now_ms()
        return [
            token
            async for token in storage.scan_tokens(self._db)
            if valid is None or token.is_valid(now_ms) == valid
        ]

    async def get(self, token: str) -> StoredToken:
        """Return a token, or answer M_NOT_FOUND."""
        found = await storage.find_token(self._db, token)
        if found is None:
            raise NotFound("There is no such token")
        return found

    async def add(self, administrator: Administrator, token: StoredToken) -> StoredToken:
        """Make a token; M_INVALID_PARAM when there is one of that name."""
        if _TOKEN.fullmatch(token.token) is None:
            raise InvalidParam("A token has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")
        self._check_limits(token)
        now_ms = self._clock.now_ms()
        try:
            await self._commit(
                administrator, "token", token,
                lambda tx: storage.guard_new_token(tx, token, now_ms),
            )  # fmt: skip
        except NotFound:
            raise InvalidParam("There is such a token already") from None
        return token

    async def change(
        self, administrator: Administrator, name: str, change: Callable[[StoredToken], StoredToken]
    ) -> StoredToken:
        """Change the limits of a token, or answer M_NOT_FOUND."""
        token = replace(change(await self.get(name)), token=name)
        self._check_limits(token)
        await self._commit(
            administrator, "change_token", token,
            lambda tx: storage.guard_changed_token(tx, token),
        )  # fmt: skip
        return token

    async def delete(self, administrator: Administrator, name: str) -> None:
        """Remove a token, or answer M_NOT_FOUND."""
        token = await self.get(name)
        await self._commit(
            administrator, "delete_token", token,
            lambda tx: storage.guard_token_deleted(tx, name),
        )  # fmt: skip

    def _check_limits(self, token: StoredToken) -> None:
        if token.uses_allowed is not None and not 0 <= token.uses_allowed <= MAX_INTEGER:
            raise InvalidParam("'uses_allowed' must be a number from 0 up")
        now_ms = self._clock.now_ms()
        if token.expires_ms is not None and not now_ms < token.expires_ms <= MAX_INTEGER:
            raise InvalidParam("'expiry_time' must lie in the future")

    async def _commit(
        self,
        administrator: Administrator,
        action: str,
        token: StoredToken,
        change: Callable[[Transaction], None],
    ) -> None:
        entry = await self._record.begin(
            administrator.user_id, action,
            {"uses": token.uses_allowed, "expires_ms": token.expires_ms},
        )  # fmt: skip
        tx = Transaction()
        change(tx)
        entry(tx, "")
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise NotFound("There is no such token") from None
