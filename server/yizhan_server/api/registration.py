"""Creating an account, and asking whether one may.

Spec: client-server API, "Account registration", "Token-authenticated registration".
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.accounts.confirmation import Flow
from yizhan_server.accounts.sessions import NewSession
from yizhan_server.api.confirming import require_confirmation
from yizhan_server.api.login import APPSERVICE_LOGIN, require_appservice
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import Forbidden, InvalidParam, MissingParam
from yizhan_server.protocol.identifiers import UserID, server_name_of
from yizhan_server.storage.accounts import Account

routes = Routes()
admin_routes = Routes(prefix="/_synapse/admin")


class RegisterBody(msgspec.Struct):
    """What `POST /register` may hold."""

    auth: dict[str, Any] | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool | None = None
    refresh_token: bool | None = None
    type: str | None = None
    guest_access_token: str | None = None


REMEMBERED = frozenset(
    (
        "username", "password", "device_id", "initial_device_display_name", "inhibit_login",
        "refresh_token",
    )
)  # fmt: skip
"""What later requests of a session need not say again."""


REGISTRATION_TOOL = "registration-secret"
"""Whom the record names: who holds the secret is not known."""


class SharedSecretBody(msgspec.Struct):
    """What registration by shared secret holds."""

    nonce: str
    username: str
    password: str
    mac: str
    admin: bool = False
    displayname: str | None = None
    user_type: str | None = None
    inhibit_login: bool = False


@routes.post("/v3/register", body=RegisterBody, auth=Auth.OPTIONAL_APPSERVICE, limit="registration")
async def register(call: Call[RegisterBody]) -> JsonObject:
    """Create an account and sign in to it."""
    body, registration = call.body, call.services.registration
    if body.type == APPSERVICE_LOGIN:
        return await _register_for_appservice(call)
    kind = call.query("kind") or "user"
    if kind == "guest":
        return _answer(
            *await registration.register_guest(
                body.initial_device_display_name, refreshable=bool(body.refresh_token)
            )
        )
    if kind != "user":
        raise InvalidParam("'kind' is user or guest")
    flows = registration.get_flows()
    if body.guest_access_token is not None:
        return await _upgrade_guest(call, body.guest_access_token, flows)
    said = _recall(call)
    body = msgspec.structs.replace(
        body, **{key: said[key] for key in REMEMBERED & said.keys() if getattr(body, key) is None}
    )
    if body.username is not None and body.password is not None and "username" in said:
        account = await registration.find_repeated(body.username, body.password)
        if account is not None:
            return await _register_again(call, body, account)
    if body.username is not None:
        await registration.check_available(body.username)
    new_session = None if body.auth is not None else _remember(call)
    confirmed = await require_confirmation(call, body.auth, flows, new_session=new_session)
    if body.password is None:
        raise MissingParam("A password is needed")
    user_id, session = await registration.register(
        body.username,
        body.password,
        confirmed,
        device_id=body.device_id,
        device_name=body.initial_device_display_name,
        refreshable=bool(body.refresh_token),
        inhibit_login=bool(body.inhibit_login),
    )
    answer: JsonObject = {"user_id": user_id, "home_server": server_name_of(user_id)}
    if session is not None:
        answer |= {"device_id": session.device_id, **session.fields()}
    return answer


async def _upgrade_guest(
    call: Call[RegisterBody], token: str, flows: tuple[Flow, ...]
) -> JsonObject:
    """Make a guest a user like others."""
    body, registration = call.body, call.services.registration
    guest = await call.services.sessions.authenticate(token)
    registration.check_guest(guest, body.username)
    confirmed = await require_confirmation(call, body.auth, flows)
    if body.password is None:
        raise MissingParam("A password is needed")
    return _answer(
        *await registration.upgrade_guest(
            guest, body.username, body.password, confirmed, refreshable=bool(body.refresh_token)
        )
    )


def _answer(user_id: UserID, session: NewSession) -> JsonObject:
    return {
        "user_id": user_id,
        "home_server": server_name_of(user_id),
        "device_id": session.device_id,
        **session.fields(),
    }


def _remember(call: Call[RegisterBody]) -> str | None:
    """Return the id of a session that remembers this request, the user name settled."""
    said = {key: value for key in REMEMBERED if (value := getattr(call.body, key)) is not None}
    said.setdefault("username", call.services.registration.make_localpart())
    return call.services.registration_sessions.seal(said)


def _recall(call: Call[RegisterBody]) -> JsonObject:
    """Return what the first request of this session said."""
    session = None if call.body.auth is None else call.body.auth.get("session")
    if not isinstance(session, str):
        return {}
    return call.services.registration_sessions.open(session)


async def _register_again(
    call: Call[RegisterBody], body: RegisterBody, account: Account
) -> JsonObject:
    """Answer a registration that was carried out before: its answer was lost on the way."""
    answer: JsonObject = {"user_id": account.user_id, "home_server": call.services.server_name}
    if not body.inhibit_login:
        session = await call.services.accounts.sign_in(
            account,
            device_id=body.device_id,
            display_name=body.initial_device_display_name,
            refreshable=bool(body.refresh_token),
        )
        answer |= {"device_id": session.device_id, **session.fields()}
    return answer


async def _register_for_appservice(call: Call[RegisterBody]) -> JsonObject:
    """Create an account for an application service, which needs no password."""
    service, body = require_appservice(call), call.body
    if body.username is None:
        raise MissingParam("A user name is needed")
    user_id, session = await call.services.appservice_accounts.register(
        service,
        body.username,
        device_id=body.device_id,
        device_name=body.initial_device_display_name,
        refreshable=bool(body.refresh_token),
        inhibit_login=bool(body.inhibit_login),
    )
    answer: JsonObject = {"user_id": user_id, "home_server": server_name_of(user_id)}
    if session is not None:
        answer |= {"device_id": session.device_id, **session.fields()}
    return answer


# Clients ask while a name is being typed: this is no registration yet.
@routes.get("/v3/register/available", auth=Auth.NONE, limit="login")
async def is_available(call: Call[None]) -> JsonObject:
    """Tell whether a user name may be had."""
    await call.services.registration.check_available(call.query_required("username"))
    return {"available": True}


@routes.get("/v1/register/m.login.registration_token/validity", auth=Auth.NONE, limit="login")
async def is_token_valid(call: Call[None]) -> JsonObject:
    """Tell whether a registration token could be used now."""
    token = call.query_required("token")
    if not call.services.registration.is_open:
        raise Forbidden("Registration is disabled")
    return {"valid": await call.services.confirmations.is_registration_token_valid(token)}


@admin_routes.get("/v1/register", auth=Auth.NONE)
async def make_nonce(call: Call[None]) -> JsonObject:
    """Give a nonce for a registration by shared secret."""
    return {"nonce": call.services.shared_secret_registration.make_nonce()}


@admin_routes.post("/v1/register", body=SharedSecretBody, auth=Auth.NONE)
async def register_by_shared_secret(call: Call[SharedSecretBody]) -> JsonObject:
    """Create an account for whoever knows the shared secret."""
    body = call.body
    entry = await call.services.record.begin(REGISTRATION_TOOL, "add", {"admin": body.admin})
    user_id, session = await call.services.shared_secret_registration.register(
        nonce=body.nonce,
        mac=body.mac,
        username=body.username,
        password=body.password,
        is_admin=body.admin,
        display_name=body.displayname,
        user_type=body.user_type,
        inhibit_login=body.inhibit_login,
        also=entry,
    )
    answer: JsonObject = {"user_id": user_id, "home_server": server_name_of(user_id)}
    if session is not None:
        answer |= {"device_id": session.device_id, **session.fields()}
    return answer
