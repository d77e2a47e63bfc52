"""E-mail addresses and telephone numbers of accounts: this server keeps none.

It sends no e-mail and no SMS, and it speaks with no identity server: passwords are reset by
administrators, and people are found by their user ids. Each endpoint says so in the words that the
specification has for it, so that clients stop offering what cannot be. Why nothing here looks at
the addresses: whatever they are, the answer is the same, and so it betrays nothing about anybody.

Spec: client-server API, "Adding Account Administrative Contact Information", "Account
registration", "Password management"; capability `m.3pid_changes`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import MatrixError

routes = Routes()


class RemovedAddressBody(msgspec.Struct):
    """What taking an address away holds."""

    medium: Literal["email", "msisdn"]
    address: str
    id_server: str | None = None


def identity_server_not_trusted() -> MatrixError:
    """Return the error for what only an identity server could do."""
    return MatrixError(400, "M_SERVER_NOT_TRUSTED", "This server uses no identity server")


@routes.get("/v3/account/3pid")
async def list_contact_addresses(call: Call[None]) -> JsonObject:
    """List the account's addresses: there are none."""
    return {"threepids": []}


@routes.post("/v3/register/email/requestToken", body=dict, auth=Auth.NONE)
@routes.post("/v3/register/msisdn/requestToken", body=dict, auth=Auth.NONE)
@routes.post("/v3/account/3pid/email/requestToken", body=dict, auth=Auth.NONE)
@routes.post("/v3/account/3pid/msisdn/requestToken", body=dict, auth=Auth.NONE)
async def request_token_for_new_address(call: Call[JsonObject]) -> JsonObject:
    """Refuse to verify an address that an account might get."""
    raise MatrixError(
        400,
        "M_THREEPID_MEDIUM_NOT_SUPPORTED",
        "Accounts of this server have no e-mail address or telephone number",
    )


@routes.post("/v3/account/password/email/requestToken", body=dict, auth=Auth.NONE)
@routes.post("/v3/account/password/msisdn/requestToken", body=dict, auth=Auth.NONE)
async def request_token_for_password(call: Call[JsonObject]) -> JsonObject:
    """Say that no account has the address by which a password is to be reset."""
    raise MatrixError(
        400, "M_THREEPID_NOT_FOUND", "No account of this server has an address: ask administrators"
    )


@routes.post("/v3/account/3pid", body=dict)
@routes.post("/v3/account/3pid/add", body=dict)
async def add_contact_address(call: Call[JsonObject]) -> JsonObject:
    """Refuse an address: no verification can have begun here or at an identity server."""
    raise MatrixError(403, "M_THREEPID_AUTH_FAILED", "The address has not been verified")


@routes.post("/v3/account/3pid/bind", body=dict)
async def bind_contact_address(call: Call[JsonObject]) -> JsonObject:
    """Refuse to publish an address at an identity server."""
    raise identity_server_not_trusted()


@routes.post("/v3/account/3pid/delete", body=RemovedAddressBody)
@routes.post("/v3/account/3pid/unbind", body=RemovedAddressBody)
async def remove_contact_address(call: Call[RemovedAddressBody]) -> JsonObject:
    """Take an address away: it is not there, and no identity server has it from us."""
    return {"id_server_unbind_result": "no-support"}
