"""E-mail addresses and telephone numbers of accounts: this server keeps none.

It sends no e-mail and no SMS: passwords are reset by administrators. (What people publish at
identity servers is theirs and not the account's; see `api.identity`.) Each endpoint says so in the
words that the specification has for it, so that clients stop offering what cannot be. Why nothing
here looks at the addresses: whatever they are, the answer is the same, and so it betrays nothing
about anybody.

Spec: client-server API, "Adding Account Administrative Contact Information", "Account
registration", "Password management"; capability `m.3pid_changes`.
"""

from __future__ import annotations

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import MatrixError

routes = Routes()


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
