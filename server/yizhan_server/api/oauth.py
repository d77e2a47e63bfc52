"""The OAuth 2.0 endpoints that clients call themselves; those for browsers are in `pages`.

Spec: client-server API, "OAuth 2.0 API".
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from yizhan_server.api.form import read_form
from yizhan_server.api.routing import Auth, Call, JsonObject, Reply, Routes
from yizhan_server.oauth.clients import GRANT_TYPES
from yizhan_server.oauth.device_codes import INTERVAL_S, LIFETIME_S
from yizhan_server.oauth.redirects import InvalidUri, check_client_url
from yizhan_server.protocol.errors import InvalidParam, NotFound

if TYPE_CHECKING:
    from yizhan_config.settings import Settings

routes = Routes()
oauth_routes = Routes(prefix="/_yizhan/oauth2")

ACCOUNT_PATH = "/_yizhan/account"
ACTIONS = (
    "org.matrix.profile",
    "org.matrix.devices_list",
    "org.matrix.device_view",
    "org.matrix.device_delete",
    "org.matrix.account_deactivate",
    "org.matrix.cross_signing_reset",
)
MAX_CLIENT_BYTES = 8192
_NEVER_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def make_auth_metadata(settings: Settings) -> JsonObject:
    """Derive the authorization server's metadata (RFC 8414) from the settings."""
    base = settings.public.client_baseurl
    metadata: JsonObject = {
        "issuer": f"{base}/",
        "authorization_endpoint": f"{base}{ACCOUNT_PATH}/authorize",
        "token_endpoint": f"{base}/_yizhan/oauth2/token",
        "revocation_endpoint": f"{base}/_yizhan/oauth2/revoke",
        "registration_endpoint": f"{base}/_yizhan/oauth2/register",
        "device_authorization_endpoint": f"{base}/_yizhan/oauth2/device",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "grant_types_supported": list(GRANT_TYPES),
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "account_management_uri": f"{base}{ACCOUNT_PATH}/",
        "account_management_actions_supported": list(ACTIONS),
        "ui_locales_supported": ["zh-CN", "en"],
    }
    if settings.registration.enabled:
        metadata["prompt_values_supported"] = ["create"]
    return metadata


@routes.get(
    "/v1/auth_metadata", auth=Auth.NONE, also=("/unstable/org.matrix.msc2965/auth_metadata",)
)
async def get_auth_metadata(call: Call[None]) -> JsonObject:
    """Describe the authorization server."""
    return call.services.auth_metadata


@oauth_routes.post("/register", body=dict, auth=Auth.NONE, limit="login", max_body=MAX_CLIENT_BYTES)
async def register_client(call: Call[JsonObject]) -> Reply:
    """Register a client."""
    return Reply(await call.services.oauth_clients.register(call.body), 201, _NEVER_STORED)


@oauth_routes.post("/device", auth=Auth.NONE, limit="login", raw_body=True)
async def start_device_authorization(call: Call[None]) -> Reply:
    """Give a device a code that its owner approves elsewhere."""
    form = await read_form(call)
    code, user_code = await call.services.oauth_device_codes.start(
        form.get("client_id"), form.get("scope", "")
    )
    page = call.services.auth_metadata["account_management_uri"] + "link"
    answer = {
        "device_code": code,
        "user_code": user_code,
        "verification_uri": page,
        "verification_uri_complete": f"{page}?user_code={user_code}",
        "expires_in": LIFETIME_S,
        "interval": INTERVAL_S,
    }
    return Reply(answer, headers=_NEVER_STORED)


# No limit: codes and tokens of 256 bits cannot be guessed, and all who sit behind one address
# poll and refresh here.
@oauth_routes.post("/token", auth=Auth.NONE, raw_body=True)
async def exchange(call: Call[None]) -> Reply:
    """Exchange a code or a refresh token for tokens."""
    answer = await call.services.oauth_grants.exchange(await read_form(call))
    return Reply(answer, headers=_NEVER_STORED)


@oauth_routes.post("/revoke", auth=Auth.NONE, raw_body=True)
async def revoke(call: Call[None]) -> JsonObject:
    """End the session of a token."""
    await call.services.oauth_grants.revoke(await read_form(call))
    return {}


# region sign-in by redirect, which leads to the same pages


@routes.get("/v3/login/sso/redirect", auth=Auth.NONE)
async def redirect_to_sign_in(call: Call[None]) -> Reply:
    """Send a browser to where its user signs in for a client of the older kind."""
    return _to_sign_in(call, None)


@routes.get("/v3/login/sso/redirect/{idp_id}", auth=Auth.NONE)
async def redirect_to_provider(call: Call[None]) -> Reply:
    """Send a browser to one provider."""
    idp_id = call.path["idp_id"]
    if call.services.sso is None or idp_id != call.services.sso.idp_id:
        raise NotFound("There is no such identity provider")
    return _to_sign_in(call, idp_id)


@routes.get("/v3/login/cas/redirect", auth=Auth.NONE)
async def redirect_to_cas(call: Call[None]) -> Reply:
    """Send a browser to the CAS server: the path from before other providers."""
    if call.services.cas is None:
        raise NotFound("There is no CAS server")
    return _to_sign_in(call, "cas")


def _to_sign_in(call: Call[None], idp_id: str | None) -> Reply:
    redirect_url = call.query_required("redirectUrl")
    try:
        check_client_url(redirect_url)
    except InvalidUri as error:
        raise InvalidParam(f"'redirectUrl': {error}") from None
    cas = call.services.cas
    if cas is not None and (idp_id is not None or call.query("action") != "register"):
        return Reply({}, 302, {"Location": cas.login_url_for_client(redirect_url)})
    asked = {"redirectUrl": redirect_url}
    if idp_id is not None:
        asked["idp"] = idp_id
    if call.query("action") == "register":
        asked["action"] = "register"
    return Reply({}, 302, {"Location": f"{ACCOUNT_PATH}/client?{urlencode(asked)}"})
