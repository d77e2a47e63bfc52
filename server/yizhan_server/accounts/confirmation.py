"""User-interactive authentication: proof, beyond a token, that the owner wants this operation.

Any endpoint may demand it. What is done is kept only between the stages of a flow: a flow of one
stage writes nothing, so that anonymous callers cannot fill the database. A session counts for
the user and the operation that it began with, and is used up when its flow is complete.

Spec: client-server API, "User-Interactive Authentication API".
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
from typing_extensions import override

from yizhan_database import Transaction
from yizhan_server.accounts.confirmation_sessions import Begun
from yizhan_server.accounts.email_verification import NotVerified
from yizhan_server.accounts.letters import PASSWORD as PASSWORD_PURPOSE
from yizhan_server.accounts.letters import REGISTER
from yizhan_server.accounts.registration_sessions import MAX_SESSION_BYTES
from yizhan_server.accounts.text import check_text
from yizhan_server.protocol.errors import BadJson, Forbidden, MatrixError
from yizhan_server.protocol.identifiers import UserID, localpart_of
from yizhan_server.storage import accounts as storage
from yizhan_server.storage import browser_sessions as browser_storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.confirmation_sessions import ConfirmationSessions
    from yizhan_server.accounts.email_addresses import EmailAddresses
    from yizhan_server.accounts.email_verification import EmailVerifications
    from yizhan_server.clock import Clock

PASSWORD = "m.login.password"  # noqa: S105 - the name of a stage
DUMMY = "m.login.dummy"
OAUTH = "m.oauth"
SSO = "m.login.sso"
REGISTRATION_TOKEN = "m.login.registration_token"  # noqa: S105
EMAIL = "m.login.email.identity"

Flow = tuple[str, ...]
"""Stages, in the order in which they are to be completed."""

BY_PASSWORD: tuple[Flow, ...] = ((PASSWORD,),)
BY_EMAIL: tuple[Flow, ...] = ((EMAIL,),)
"""For who has forgotten the password."""
MAX_REGISTRATION_TOKEN_LENGTH = 64


def reset_needed(url: str) -> ConfirmationNeeded:
    """Return the 401 that sends the owner to the page `url` to allow new cross-signing keys.

    The second stage is what clients knew before v1.17 of the specification.
    """
    stages = (OAUTH, "org.matrix.cross_signing_reset")
    return ConfirmationNeeded(
        tuple((stage,) for stage in stages),
        _new_session(),
        (),
        params={stage: {"url": url} for stage in stages},
    )


class ConfirmationNeeded(MatrixError):
    """The 401 that tells a client which stages remain, and what was wrong with the last one."""

    def __init__(
        self,
        flows: tuple[Flow, ...],
        session: str,
        completed: Flow,
        failure: MatrixError | None = None,
        params: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(401, "M_FORBIDDEN", "Confirmation needed")
        self._answer: dict[str, Any] = {
            "flows": [{"stages": list(flow)} for flow in flows],
            "params": params or {},
            "session": session,
            "completed": list(completed),
        }
        if failure is not None:
            self._answer |= failure.body()

    @override
    def body(self) -> dict[str, Any]:
        """Return the answer's body: without errcode, unless a stage was attempted and failed."""
        return self._answer


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Proof that a flow was completed."""

    registration_token: str | None = None
    """The token of that stage; whoever creates the account uses it up in the same commit."""
    email_sid: str | None = None
    """The verification of the e-mail stage, which is to be used up likewise."""


class Confirmations:
    """Demands user-interactive authentication."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        accounts: Accounts,
        sessions: ConfirmationSessions,
        lifetime_seconds: int,
        *,
        emails: EmailAddresses,
        verifications: EmailVerifications,
        has_provider: bool,
    ) -> None:
        self._db = db
        self._clock = clock
        self._accounts = accounts
        self._sessions = sessions
        self._lifetime_ms = lifetime_seconds * 1000
        self._emails = emails
        self._verifications = verifications
        self._has_provider = has_provider

    async def require(
        self,
        auth: dict[str, Any] | None,
        *,
        operation: str,
        user_id: UserID | None,
        flows: tuple[Flow, ...] = BY_PASSWORD,
        new_session: str | None = None,
    ) -> Confirmed:
        """Return when the request's `auth` completes one of `flows`, else answer the 401.

        `operation` is the method and path: a session begun for one is refused for another.
        `new_session` is the id that a new session gets; without it, one for user and operation.
        Whoever comes from an identity provider may confirm there, and must without a password.
        """
        if user_id is not None:
            flows = await self._flows_for(user_id, flows)
            begun = Begun(user_id, operation)
            new_session = new_session or self._sessions.seal(begun)
        else:
            begun, new_session = None, new_session or _new_session()
        if auth is None:
            raise ConfirmationNeeded(flows, new_session, ())
        session = auth.get("session")
        if session is not None and not isinstance(session, str):
            raise BadJson("'auth.session' must be a string")
        if session is not None and self._sessions.open(session) not in (None, begun):
            raise Forbidden("This session was begun for something else")
        completed, shown = await self._find(session, user_id, operation)
        known_session = session if completed else None
        session = session or new_session
        stage = auth.get("type")
        if stage is not None and stage not in completed:
            if not any(flow[: len(completed) + 1] == (*completed, stage) for flow in flows):
                failure = Forbidden("This stage is not offered now")
                raise ConfirmationNeeded(flows, session, completed, failure)
            await self._check_named(auth, user_id)
            try:
                # In both nobody is signed in.
                purpose = PASSWORD_PURPOSE if flows is BY_EMAIL else REGISTER
                shown = await self._pass(stage, auth, user_id, purpose, shown)
            except (Forbidden, NotVerified) as failure:
                raise ConfirmationNeeded(flows, session, completed, failure) from None
            completed = (*completed, stage)
        if completed in flows:
            await self._forget(known_session)
            return shown
        if stage is not None and completed:
            await self._keep(session, user_id, operation, completed, shown)
        raise ConfirmationNeeded(flows, session, completed)

    def find_begun(self, session: str) -> Begun | None:
        """Return what a session was begun for, None when there is none (any more)."""
        return self._sessions.open(session)

    async def confirm_on_page(self, session: str, begun: Begun, stage: str) -> None:
        """Complete the stage of whoever just proved there to be `begun.user_id`."""
        await self._keep(session, begun.user_id, begun.operation, (stage,), Confirmed())

    async def _flows_for(self, user_id: UserID, flows: tuple[Flow, ...]) -> tuple[Flow, ...]:
        if flows is not BY_PASSWORD or not self._has_provider:
            return flows
        if not await browser_storage.is_linked(self._db, user_id):
            return flows
        account = await self._accounts.find_active(user_id)
        by_provider: tuple[Flow, ...] = ((SSO,),)
        if account is None or account.password_hash is None:
            return by_provider
        return flows + by_provider

    async def is_registration_token_valid(self, token: str) -> bool:
        """Tell whether a registration token could be used now."""
        if not token or len(token) > MAX_REGISTRATION_TOKEN_LENGTH or not token.isascii():
            return False
        if "\0" in token:
            return False
        return await storage.find_registration_token(self._db, token, self._clock.now_ms())

    async def _pass(
        self,
        stage: str,
        auth: dict[str, Any],
        user_id: UserID | None,
        purpose: str,
        shown: Confirmed,
    ) -> Confirmed:
        """Return what was shown when the stage is passed, raise Forbidden or NotVerified if not."""
        if stage == DUMMY:
            return shown
        if stage == PASSWORD and user_id is not None:
            await self._check_password(auth, user_id)
            return shown
        if stage == SSO:
            raise Forbidden("This is confirmed on the page of the stage")
        if stage == REGISTRATION_TOKEN:
            token = auth.get("token")
            if isinstance(token, str) and await self.is_registration_token_valid(token):
                return replace(shown, registration_token=token)
            raise Forbidden("The registration token is not valid")
        if stage == EMAIL:
            return replace(shown, email_sid=await self._check_email(auth, purpose))
        raise Forbidden("This stage is not known")

    async def _check_email(self, auth: dict[str, Any], purpose: str) -> str:
        """Return the id of a verification that the client began and the owner agreed to."""
        # Older clients write it in camel case.
        said = auth.get("threepid_creds", auth.get("threepidCreds"))
        if not isinstance(said, dict):
            raise BadJson("'auth.threepid_creds' must be an object")
        sid, client_secret = said.get("sid"), said.get("client_secret")
        if not isinstance(sid, str) or not isinstance(client_secret, str):
            raise BadJson("'sid' and 'client_secret' must be strings")
        return (await self._verifications.get_validated(purpose, sid, client_secret)).sid

    async def _check_password(self, auth: dict[str, Any], user_id: UserID) -> None:
        password = auth.get("password")
        if not isinstance(password, str):
            raise BadJson("'auth.password' must be a string")
        await self._accounts.check_password(localpart_of(user_id), password)

    async def _check_named(self, auth: dict[str, Any], user_id: UserID | None) -> None:
        """Refuse somebody else's name; the caller is known already, and need give none."""
        named = await self._emails.find_name(auth.get("identifier"), auth.get("user"))
        if named is not None and self._accounts.find_user_id(named) != user_id:
            raise Forbidden("This is somebody else's session")

    async def _find(
        self, session: str | None, user_id: UserID | None, operation: str
    ) -> tuple[Flow, Confirmed]:
        if not session:
            return (), Confirmed()
        check_text(session, "The session", max_bytes=MAX_SESSION_BYTES)
        row = await storage.find_confirmation(
            self._db, session, user_id or "", operation, self._clock.now_ms()
        )
        if row is None:
            return (), Confirmed()
        completed, registration_token, email_sid = row
        return tuple(orjson.loads(completed)), Confirmed(registration_token, email_sid)

    async def _keep(
        self,
        session: str,
        user_id: UserID | None,
        operation: str,
        completed: Flow,
        shown: Confirmed,
    ) -> None:
        tx = Transaction()
        storage.upsert_confirmation(
            tx,
            session,
            user_id=user_id or "",
            operation=operation,
            completed=orjson.dumps(completed).decode(),
            registration_token=shown.registration_token,
            email_sid=shown.email_sid,
            expires_ms=self._clock.now_ms() + self._lifetime_ms,
        )
        await self._db.commit(tx)

    async def _forget(self, session: str | None) -> None:
        if session is not None:
            tx = Transaction()
            storage.delete_confirmation(tx, session)
            await self._db.commit(tx)


def _new_session() -> str:
    return secrets.token_urlsafe(18)
