"""The token endpoint: what codes and refresh tokens buy, and how all of it is given back.

What is bought is an ordinary session (`accounts.sessions`): a device and its tokens, with a note
of the client it belongs to. Whatever shows that a secret is in two hands ends that session: a
code that comes twice, a refresh token that was replaced before.

Spec: client-server API, "Grant types", "Token revocation"; RFC 6749, 7009, 7636, 8628.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts import tokens
from yizhan_server.oauth.clients import (
    AUTHORIZATION_CODE,
    DEVICE_CODE,
    REFRESH_TOKEN,
    Clients,
)
from yizhan_server.oauth.errors import OAuthError, invalid_grant, invalid_request
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.storage import accounts as account_storage
from yizhan_server.storage import oauth as storage
from yizhan_server.storage.oauth import OAuthSession

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.requester import Requester
    from yizhan_server.accounts.sessions import NewSession, Sessions
    from yizhan_server.clock import Clock
    from yizhan_server.flows.logout import Logout
    from yizhan_server.oauth.device_codes import DeviceCodes
    from yizhan_server.protocol.identifiers import DeviceID, UserID

JsonObject = dict[str, Any]

UNUSED_CLIENT_MS = 86_400_000
"""A client without a session is forgotten so long after its registration."""

_TIDY_EVERY_S = 300.0
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class Grants:
    """Exchanges codes and refresh tokens for sessions."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        accounts: Accounts,
        sessions: Sessions,
        clients: Clients,
        device_codes: DeviceCodes,
        logout: Logout,
    ) -> None:
        self._db = db
        self._clock = clock
        self._accounts = accounts
        self._sessions = sessions
        self._clients = clients
        self._device_codes = device_codes
        self._logout = logout

    async def exchange(self, form: Mapping[str, str]) -> JsonObject:
        """Answer a token request."""
        grant_type = _required(form, "grant_type")
        if grant_type not in (AUTHORIZATION_CODE, DEVICE_CODE, REFRESH_TOKEN):
            raise OAuthError("unsupported_grant_type", "This grant type is not supported")
        client_id = _required(form, "client_id")
        if grant_type == REFRESH_TOKEN:
            # A client without a session may be forgotten, but a session proves its client.
            return await self._refresh(client_id, _required(form, "refresh_token"))
        await self._clients.get(client_id)
        if grant_type == DEVICE_CODE:
            return await self._exchange_device_code(client_id, _required(form, "device_code"))
        return await self._exchange_code(client_id, form)

    async def _exchange_code(self, client_id: str, form: Mapping[str, str]) -> JsonObject:
        verifier, redirect_uri = _required(form, "code_verifier"), _required(form, "redirect_uri")
        code = await storage.find_code(self._db, tokens.digest_of(_required(form, "code")))
        if code is None or code.client_id != client_id:
            raise invalid_grant("The code is not valid")
        if code.is_used:
            await self._end_bought_session(code.user_id, code.device_id, code.digest)
            raise invalid_grant("The code was used before; the session that it bought has ended")
        if code.expires_ms <= self._clock.now_ms():
            raise invalid_grant("The code has expired")
        if code.redirect_uri != redirect_uri:
            raise invalid_grant("The redirect_uri is not that of the request")
        if not _is_verified(verifier, code.challenge):
            raise invalid_grant("The code_verifier does not fit")
        session = OAuthSession(code.user_id, code.device_id, client_id, code.scope, code.digest)
        try:
            return await self._start(
                session, code.account_ver, lambda tx: storage.guard_code(tx, code.digest)
            )
        except GuardFailed:
            # Two presented it at the same moment, and the other was faster.
            await self._end_bought_session(code.user_id, code.device_id, code.digest)
            raise invalid_grant("The code was used before") from None

    async def _exchange_device_code(self, client_id: str, device_code: str) -> JsonObject:
        code = await self._device_codes.poll(client_id, device_code)
        assert code.user_id is not None
        assert code.account_ver is not None
        session = OAuthSession(code.user_id, code.device_id, client_id, code.scope, code.digest)
        try:
            return await self._start(
                session, code.account_ver, lambda tx: storage.guard_device_code(tx, code.digest)
            )
        except GuardFailed:
            raise invalid_grant("The device code is not valid") from None

    async def _start(
        self, session: OAuthSession, account_ver: int, use_up: Callable[[Transaction], None]
    ) -> JsonObject:
        """Start the session; GuardFailed when what buys it is used up."""
        account = await self._accounts.find_active(session.user_id)
        # A new password, a lock or the like since the owner agreed: whoever changed that may have
        # meant to keep this very session out.
        if account is None or account.ver != account_ver:
            raise invalid_grant("The account has changed meanwhile")
        nids = await self._sessions.prepare()
        client = await self._clients.get(session.client_id)
        tx = Transaction()
        use_up(tx)
        account_storage.guard_sign_in(tx, account, self._clock.now_ms())
        new = self._sessions.record_start(
            tx, nids, session.user_id, session.device_id,
            display_name=client.name, refreshable=True,
        )  # fmt: skip
        storage.upsert_session(tx, session)
        await self._db.commit(tx)
        return _answer(new, session.scope)

    async def _refresh(self, client_id: str, refresh_token: str) -> JsonObject:
        try:
            new = await self._sessions.refresh(refresh_token, client_id=client_id)
        except MatrixError as error:
            if error.errcode == "M_USER_LOCKED":
                # With a 4xx the client would forget a session that the lock leaves alone.
                raise OAuthError(
                    "temporarily_unavailable", "The account is locked", status=503
                ) from None
            spent = await storage.find_spent_refresh_token(
                self._db, tokens.digest_of(refresh_token)
            )
            if spent is not None:
                await self._logout.end(spent[0], [spent[1]])
                raise invalid_grant(
                    "The refresh token was replaced before; the session has ended"
                ) from None
            raise invalid_grant("The refresh token is not valid") from None
        session = await storage.find_session(self._db, new.user_id, new.device_id)
        return _answer(new, "" if session is None else session.scope)

    async def revoke(self, form: Mapping[str, str]) -> None:
        """End the session that a token belongs to; an unknown token is no error.

        Whoever presents a token may end it, whichever client it was made for: so can a program
        that finds leaked ones.
        """
        owner = await storage.find_owner(self._db, tokens.digest_of(_required(form, "token")))
        if owner is not None:
            await self._logout.end(owner[0], [owner[1]])

    async def is_oauth(self, requester: Requester) -> bool:
        """Tell whether the requester's device signed in here."""
        session = await storage.find_session(self._db, requester.user_id, requester.device_id)
        return session is not None

    async def tidy(self) -> None:
        """Forget codes and clients that are of no use any more."""
        now_ms = self._clock.now_ms()
        tx = Transaction()
        storage.delete_ended(tx, now_ms, now_ms - UNUSED_CLIENT_MS)
        await self._db.commit(tx)

    async def run(self) -> None:
        """Tidy every few minutes, for ever."""
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            await self.tidy()

    async def _end_bought_session(
        self, user_id: UserID, device_id: DeviceID, digest: bytes
    ) -> None:
        session = await storage.find_session(self._db, user_id, device_id)
        if session is not None and session.bought_by == digest:
            await self._logout.end(user_id, [device_id])


def _answer(new: NewSession, scope: str) -> JsonObject:
    answer: JsonObject = {
        "access_token": new.access_token,
        "token_type": "Bearer",
        "refresh_token": new.refresh_token,
        "scope": scope,
    }
    if new.expires_in_ms is not None:
        answer["expires_in"] = new.expires_in_ms // 1000
    return answer


def _is_verified(verifier: str, challenge: str) -> bool:
    if _VERIFIER.fullmatch(verifier) is None:
        return False
    digest = hashlib.sha256(verifier.encode()).digest()
    return hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), challenge)


def _required(form: Mapping[str, str], name: str) -> str:
    value = form.get(name)
    if not value:
        raise invalid_request(f"'{name}' is missing")
    return value
