"""Registration tokens, for administrators: the endpoints that admin tools for Synapse know.

Documented by Synapse's admin API, whose paths and keys these are.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.storage.registration_tokens import StoredToken

routes = Routes(prefix="/_synapse/admin")

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class NewTokenBody(msgspec.Struct):
    """POST /v1/registration_tokens/new."""

    token: str | None = None
    uses_allowed: int | None = None
    expiry_time: int | None = None
    length: int = 16


class TokenBody(msgspec.Struct):
    """PUT /v1/registration_tokens/{token}: what is not named stays; null is without limit."""

    uses_allowed: int | msgspec.UnsetType | None = msgspec.UNSET
    expiry_time: int | msgspec.UnsetType | None = msgspec.UNSET


@routes.get("/v1/registration_tokens", auth=Auth.ADMIN)
async def list_tokens(call: Call[None]) -> JsonObject:
    """List the tokens."""
    valid = None if call.query("valid") is None else call.query_bool("valid")
    found = await call.services.token_administration.list_tokens(valid=valid)
    return {"registration_tokens": [_to_json(token) for token in found]}


@routes.get("/v1/registration_tokens/{token}", auth=Auth.ADMIN)
async def get_token(call: Call[None]) -> JsonObject:
    """Show a token."""
    return _to_json(await call.services.token_administration.get(call.path["token"]))


@routes.post("/v1/registration_tokens/new", auth=Auth.ADMIN, body=NewTokenBody)
async def add_token(call: Call[NewTokenBody]) -> JsonObject:
    """Make a token, a random one unless it is named."""
    body = call.body
    if not 1 <= body.length <= 64:
        raise InvalidParam("'length' must be 1 to 64")
    name = body.token
    if name is None:
        name = "".join(secrets.choice(_LETTERS) for _ in range(body.length))
    token = StoredToken(name, body.uses_allowed, 0, body.expiry_time)
    return _to_json(await call.services.token_administration.add(call.administrator, token))


@routes.put("/v1/registration_tokens/{token}", auth=Auth.ADMIN, body=TokenBody)
async def change_token(call: Call[TokenBody]) -> JsonObject:
    """Change the limits of a token."""
    changed: dict[str, Any] = {}
    if call.body.uses_allowed is not msgspec.UNSET:
        changed["uses_allowed"] = call.body.uses_allowed
    if call.body.expiry_time is not msgspec.UNSET:
        changed["expires_ms"] = call.body.expiry_time
    token = await call.services.token_administration.change(
        call.administrator, call.path["token"], lambda token: replace(token, **changed)
    )
    return _to_json(token)


@routes.delete("/v1/registration_tokens/{token}", auth=Auth.ADMIN)
async def delete_token(call: Call[None]) -> JsonObject:
    """Remove a token."""
    await call.services.token_administration.delete(call.administrator, call.path["token"])
    return {}


def _to_json(token: StoredToken) -> JsonObject:
    return {
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "pending": 0,
        "completed": token.used,
        "expiry_time": token.expires_ms,
    }
