"""Signing in and out, refreshing, and asking who one is.

Spec: client-server API, "Login", "Refreshing access tokens", "/account/whoami".
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.accounts.named_user import named_user
from yizhan_server.accounts.sessions import NewSession
from yizhan_server.api.confirming import require_confirmation
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.api.services import Services
from yizhan_server.protocol.errors import MatrixError, MissingParam, MissingToken, UnknownToken
from yizhan_server.protocol.identifiers import server_name_of

routes = Routes()

APPSERVICE_LOGIN = "m.login.application_service"


class LoginBody(msgspec.Struct):
    """What `POST /login` may hold, for all types of login."""

    type: str
    identifier: dict[str, Any] | None = None
    user: str | None = None
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    token: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = None


class RefreshBody(msgspec.Struct):
    """What `POST /refresh` holds."""

    refresh_token: str


class AuthBody(msgspec.Struct):
    """A body of which only the confirmation matters."""

    auth: dict[str, Any] | None = None


@routes.get("/v3/login", auth=Auth.NONE)
async def get_login_flows(call: Call[None]) -> JsonObject:
    """List how one may sign in."""
    flows: list[JsonObject] = [
        {"type": "m.login.password"},
        {"type": "m.login.token", "get_login_token": True},
    ]
    sso = call.services.sso
    if sso is not None:
        provider = {"id": sso.idp_id, "name": sso.name}
        flows.append({"type": "m.login.sso", "identity_providers": [provider]})
    if call.services.cas is not None:
        # What clients looked for before there were other providers.
        flows.append({"type": "m.login.cas"})
    if call.services.appservices:
        flows.append({"type": APPSERVICE_LOGIN})
    return {"flows": flows}


@routes.post("/v3/login", body=LoginBody, auth=Auth.OPTIONAL_APPSERVICE, limit="login")
async def log_in(call: Call[LoginBody]) -> JsonObject:
    """Start a session."""
    return describe_login(call.services, await _start_session(call))


def describe_login(services: Services, session: NewSession) -> JsonObject:
    """Return what a client is told that has signed in."""
    answer: JsonObject = {
        "user_id": session.user_id,
        "device_id": session.device_id,
        "home_server": server_name_of(session.user_id),
        **session.fields(),
    }
    well_known = services.discovery.client
    if well_known is not None:
        answer["well_known"] = well_known
    return answer


async def _start_session(call: Call[LoginBody]) -> NewSession:
    body, accounts = call.body, call.services.accounts
    login_token = None
    if body.type == APPSERVICE_LOGIN:
        service, name = require_appservice(call), named_user(body.identifier, body.user)
        if name is None:
            raise MissingParam("A user identifier is needed")
        return await call.services.appservice_accounts.sign_in(
            service,
            name,
            device_id=body.device_id,
            device_name=body.initial_device_display_name,
            refreshable=bool(body.refresh_token),
        )
    if body.type == "m.login.password":
        identifier = body.identifier
        if identifier is None and body.user is None and body.address is not None:
            # The deprecated form.
            identifier = {"medium": body.medium, "address": body.address}
        name = await call.services.email_addresses.find_name(identifier, body.user)
        if name is None or body.password is None:
            raise MissingParam("A user identifier and a password are needed")
        account = await accounts.check_password(name, body.password)
    elif body.type == "m.login.token":
        login_token = body.token
        if login_token is None:
            raise MissingParam("A token is needed")
        account = await accounts.check_login_token(login_token)
    else:
        raise MatrixError(400, "M_UNKNOWN", "This type of login is not supported")
    return await accounts.sign_in(
        account,
        device_id=body.device_id,
        display_name=body.initial_device_display_name,
        refreshable=bool(body.refresh_token),
        login_token=login_token,
    )


@routes.post("/v1/login/get_token", body=AuthBody, limit="login", gives_credential=True)
async def make_login_token(call: Call[AuthBody]) -> JsonObject:
    """Make a token with which another client of the same user may sign in, once."""
    await require_confirmation(call, call.body.auth)
    token, expires_in_ms = await call.services.accounts.make_login_token(call.requester.user_id)
    return {"login_token": token, "expires_in_ms": expires_in_ms}


# No limit, as for OAuth clients: nobody guesses 256 bits, and a whole office behind one address
# refreshes here.
@routes.post("/v3/refresh", body=RefreshBody, auth=Auth.NONE, also=("/v1/refresh",))
async def refresh(call: Call[RefreshBody]) -> JsonObject:
    """Exchange a refresh token for a new pair of tokens."""
    session = await call.services.sessions.refresh(call.body.refresh_token)
    return session.fields()


@routes.post("/v3/logout", auth=Auth.NONE)
async def log_out(call: Call[None]) -> JsonObject:
    """End the device whose token is presented."""
    requester = await call.services.sessions.authenticate(_token(call), allow_locked=True)
    await call.services.logout.end(requester.user_id, [requester.device_id])
    return {}


@routes.post("/v3/logout/all", auth=Auth.NONE)
async def log_out_everywhere(call: Call[None]) -> JsonObject:
    """End all devices of the user whose token is presented."""
    requester = await call.services.sessions.authenticate(_token(call), allow_locked=True)
    await call.services.logout.end_all(requester.user_id)
    return {}


@routes.get("/v3/account/whoami")
async def whoami(call: Call[None]) -> JsonObject:
    """Tell whose token this is."""
    requester = call.requester
    answer: JsonObject = {"user_id": requester.user_id, "is_guest": requester.is_guest}
    if requester.device_id:
        answer["device_id"] = requester.device_id
    return answer


def require_appservice(call: Call[Any]) -> str:
    """Return the id of the application service that calls, or answer as for a wrong token."""
    requester = call.maybe_requester
    if requester is None or requester.appservice is None:
        raise MissingToken if call.find_token(call.request) is None else UnknownToken
    return requester.appservice


def _token(call: Call[None]) -> str:
    # Not `auth=Auth.USER`: signing out is the one thing that a locked account may do.
    token = call.find_token(call.request)
    if token is None:
        raise MissingToken
    return token
