"""Publishing addresses at identity servers, taking them back, and being told of such.

Spec: client-server API, "Adding Account Administrative Contact Information"; server-server API,
"Third-party invites" (`/3pid/onbind`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from yizhan_server.accounts.email_addresses import EMAIL
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes

routes = Routes()
# Part of the server-server API, but called by identity servers, without any server's signature.
federation_routes = Routes(prefix="/_matrix/federation")


class BindBody(msgspec.Struct):
    """What `POST /account/3pid/bind` holds."""

    id_server: str
    id_access_token: str
    sid: str
    client_secret: str


class AddressBody(msgspec.Struct):
    """Which address is to be removed."""

    medium: Literal["email", "msisdn"]
    address: str
    id_server: str | None = None


class BoundBody(msgspec.Struct):
    """What an identity server says when an address was bound."""

    mxid: str
    invites: list[dict[str, Any]] = []


@routes.post("/v3/account/3pid/bind", body=BindBody, also=("/unstable/account/3pid/bind",))
async def bind(call: Call[BindBody]) -> JsonObject:
    """Publish an address that was verified at an identity server."""
    body = call.body
    await call.services.identity_bindings.bind(
        call.requester.user_id,
        body.id_server,
        body.id_access_token,
        sid=body.sid,
        client_secret=body.client_secret,
    )
    return {}


@routes.post("/v3/account/3pid/unbind", body=AddressBody, also=("/unstable/account/3pid/unbind",))
async def unbind(call: Call[AddressBody]) -> JsonObject:
    """Take a published address back; the account keeps it."""
    body = call.body
    done = await call.services.identity_bindings.unbind(
        call.requester.user_id, body.medium, body.address, body.id_server
    )
    return {"id_server_unbind_result": "success" if done else "no-support"}


@routes.post("/v3/account/3pid/delete", body=AddressBody)
async def delete(call: Call[AddressBody]) -> JsonObject:
    """Take an address from one's account, and back from where it is published."""
    if call.body.medium == EMAIL:
        await call.services.email_addresses.remove(call.requester.user_id, call.body.address)
    return await unbind(call)


@federation_routes.put("/v1/3pid/onbind", body=BoundBody, auth=Auth.NONE, limit="invites")
@federation_routes.post("/v1/3pid/onbind", body=BoundBody, auth=Auth.NONE, limit="invites")
async def address_bound(call: Call[BoundBody]) -> JsonObject:
    """Give a user the invitations that an identity server kept. Some servers say POST."""
    await call.services.third_party_invites.accept_binding(call.body.mxid, call.body.invites)
    return {}
