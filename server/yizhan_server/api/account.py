"""One's own account: password, deactivation.

Spec: client-server API, "Password management", "Account deactivation".
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.accounts.confirmation import BY_EMAIL
from yizhan_server.api.confirming import require_confirmation
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import MissingToken
from yizhan_server.protocol.identifiers import localpart_of

routes = Routes()


class PasswordBody(msgspec.Struct):
    """What `POST /account/password` holds."""

    new_password: str
    logout_devices: bool = True
    auth: dict[str, Any] | None = None


class DeactivateBody(msgspec.Struct):
    """What `POST /account/deactivate` holds."""

    auth: dict[str, Any] | None = None
    erase: bool = False


@routes.post("/v3/account/password", body=PasswordBody, auth=Auth.OPTIONAL)
async def change_password(call: Call[PasswordBody]) -> JsonObject:
    """Change one's password; the session that does it stays."""
    if call.maybe_requester is None:
        return await _reset_password(call)
    body, user_id = call.body, call.requester.user_id
    call.services.passwords.check_strength(body.new_password, localpart_of(user_id))
    await require_confirmation(call, body.auth)
    await call.services.password_change.set(
        user_id,
        body.new_password,
        logout_devices=body.logout_devices,
        kept=call.requester.device_id,
    )
    return {}


async def _reset_password(call: Call[PasswordBody]) -> JsonObject:
    """Set the password of who has forgotten it and reads the mail of the account's address."""
    body, services = call.body, call.services
    if not services.email_verifications.is_enabled:
        raise MissingToken("Missing access token")
    confirmed = await require_confirmation(call, body.auth, BY_EMAIL)
    assert confirmed.email_sid is not None
    await services.password_change.reset(
        confirmed.email_sid, body.new_password, logout_devices=body.logout_devices
    )
    return {}


@routes.post("/v3/account/deactivate", body=DeactivateBody)
async def deactivate(call: Call[DeactivateBody]) -> JsonObject:
    """End one's account for good."""
    await require_confirmation(call, call.body.auth)
    unbound = await call.services.deactivation.deactivate(
        call.requester.user_id, erase=call.body.erase
    )
    return {"id_server_unbind_result": "success" if unbound else "no-support"}
