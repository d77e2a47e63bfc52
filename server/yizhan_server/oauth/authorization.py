"""Authorization requests: what a client asks its user's browser to bring to us, and the answer.

A request is judged in two steps. While client and redirect URI are in doubt nothing is sent
anywhere: the person is told. From then on the client is told, through the redirect.

Spec: client-server API, "Authorisation code flow"; RFC 6749 section 4.1, RFC 7636, RFC 9700.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from yizhan_database import Transaction
from yizhan_server.accounts import tokens
from yizhan_server.oauth.clients import AUTHORIZATION_CODE, Client, Clients
from yizhan_server.oauth.errors import OAuthError, invalid_request
from yizhan_server.oauth.redirects import ResponseMode, add_answer, is_registered
from yizhan_server.oauth.scope import Scope, parse_scope
from yizhan_server.storage import oauth as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.storage.accounts import Account

CODE = "yac_"
CODE_LIFETIME_MS = 60_000
CODE_REMEMBERED_MS = 3_600_000
"""So long a second presentation of a code ends the session that the first one bought."""

# The base64url of 32 bytes.
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Callback:
    """Where an answer goes, once it is known that it may go there."""

    redirect_uri: str
    mode: ResponseMode
    state: str | None

    def to(self, answer: dict[str, str]) -> str:
        """Return the URL that takes `answer` back to the client."""
        state = {} if self.state is None else {"state": self.state}
        return add_answer(self.redirect_uri, self.mode, answer | state)

    def refusal(self, error: OAuthError) -> str:
        """Return the URL that tells the client of an error."""
        return self.to({"error": error.code, "error_description": error.description})


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that may be put before the user."""

    client: Client
    callback: Callback
    scope: Scope
    challenge: str
    wants_registration: bool


class RefusedToClient(Exception):
    """A request that is refused through the client's own redirect URI."""

    def __init__(self, callback: Callback, error: OAuthError) -> None:
        super().__init__(error.description)
        self.location = callback.refusal(error)


class Authorizations:
    """Judges authorization requests and gives out codes."""

    def __init__(self, db: Database, clock: Clock, clients: Clients) -> None:
        self._db = db
        self._clock = clock
        self._clients = clients

    async def check(self, query: Mapping[str, str]) -> AuthorizationRequest:
        """Return the request; OAuthError is for the person, RefusedToClient for the client."""
        client = await self._clients.get(query.get("client_id"))
        redirect_uri = query.get("redirect_uri", "")
        if not is_registered(redirect_uri, client.metadata.redirect_uris):
            raise invalid_request("The redirect_uri is not one that the client registered")
        mode = query.get("response_mode", "query")
        callback = Callback(
            redirect_uri,
            cast("ResponseMode", mode) if mode in ("query", "fragment") else "query",
            query.get("state"),
        )
        try:
            if mode not in ("query", "fragment"):
                raise invalid_request("response_mode must be query or fragment")
            return self._check_rest(client, callback, query)
        except OAuthError as error:
            raise RefusedToClient(callback, error) from None

    def _check_rest(
        self, client: Client, callback: Callback, query: Mapping[str, str]
    ) -> AuthorizationRequest:
        if query.get("response_type") != "code":
            raise OAuthError("unsupported_response_type", "response_type must be code")
        if not client.may(AUTHORIZATION_CODE):
            raise OAuthError("unauthorized_client", "The client did not register for this grant")
        # Without a method, RFC 7636 means `plain`: whoever sees the request could redeem the code.
        if query.get("code_challenge_method") != "S256":
            raise invalid_request("code_challenge_method must be S256")
        challenge = query.get("code_challenge", "")
        if _CHALLENGE.fullmatch(challenge) is None:
            raise invalid_request("code_challenge must be the base64url of a SHA-256 digest")
        if "request" in query or "request_uri" in query:
            raise OAuthError("request_not_supported", "Request objects are not supported")
        prompts = query.get("prompt", "").split()
        if "none" in prompts:
            # There is always something to ask: each client is agreed to each time.
            raise OAuthError("interaction_required", "The user has to agree")
        scope = parse_scope(query.get("scope", ""))
        return AuthorizationRequest(client, callback, scope, challenge, "create" in prompts)

    async def grant(self, request: AuthorizationRequest, account: Account) -> str:
        """Record that the account's owner agrees; returns the URL that takes the code back."""
        code = tokens.make_token(CODE)
        now_ms = self._clock.now_ms()
        tx = Transaction()
        storage.insert_code(
            tx,
            storage.AuthorizationCode(
                digest=tokens.digest_of(code),
                client_id=request.client.client_id,
                redirect_uri=request.callback.redirect_uri,
                challenge=request.challenge,
                scope=request.scope.text,
                device_id=request.scope.device_id,
                user_id=account.user_id,
                account_ver=account.ver,
                is_used=False,
                expires_ms=now_ms + CODE_LIFETIME_MS,
            ),
            now_ms + CODE_REMEMBERED_MS,
        )
        await self._db.commit(tx)
        return request.callback.to({"code": code})

    def deny(self, request: AuthorizationRequest) -> str:
        """Return the URL that tells the client of the user's refusal."""
        return request.callback.refusal(OAuthError("access_denied", "The user refused"))
