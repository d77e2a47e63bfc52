"""OpenID tokens: given to users, shown by them to services, which ask us whose they are.

Spec: client-server API, "OpenID"; server-server API, "OpenID".
"""

from __future__ import annotations

from yizhan_server.accounts.openid import LIFETIME_S
from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import Forbidden, MissingToken

routes = Routes()
# Part of the server-server API, but asked without any server's signature.
federation_routes = make_routes()


@routes.post("/v3/user/{user_id}/openid/request_token", body=dict, gives_credential=True)
async def request_token(call: Call[JsonObject]) -> JsonObject:
    """Give the requester a token to show to another service."""
    if call.path["user_id"] != call.requester.user_id:
        raise Forbidden("A token is given to its owner only")
    return {
        "access_token": await call.services.openid_tokens.make(call.requester.user_id),
        "token_type": "Bearer",
        "matrix_server_name": call.services.server_name,
        "expires_in": LIFETIME_S,
    }


@federation_routes.get("/v1/openid/userinfo", auth=Auth.NONE)
async def tell_user(call: Call[None]) -> JsonObject:
    """Tell a service whose token it was shown."""
    token = call.query("access_token")
    if token is None:
        raise MissingToken
    return {"sub": await call.services.openid_tokens.find_user(token)}
