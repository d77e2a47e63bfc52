"""E-mail addresses of accounts. Telephone numbers there are none: no SMS is sent.

Where the administrator has named no mail server (`email.host`), no address can be added either,
and each endpoint says so in the words that the specification has for it, so that clients stop
offering what cannot be. (What people publish at identity servers is theirs and not the account's;
see `api.identity`.) Then nothing here looks at the addresses: whatever they are, the answer is the
same, and so it betrays nothing about anybody.

Spec: client-server API, "Adding Account Administrative Contact Information", "Account
registration", "Password management"; capability `m.3pid_changes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from yizhan_server.accounts.email_addresses import EMAIL
from yizhan_server.accounts.email_verification import NotVerified
from yizhan_server.accounts.letters import ADD, PASSWORD, REGISTER, Purpose
from yizhan_server.api.confirming import require_confirmation
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import MatrixError

if TYPE_CHECKING:
    from yizhan_server.accounts.email_addresses import EmailAddresses
    from yizhan_server.protocol.identifiers import UserID

routes = Routes()


class MailBody(msgspec.Struct):
    """What a request for a mail holds. Identity servers are ignored: we verify ourselves."""

    client_secret: str
    email: str
    send_attempt: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    next_link: str | None = None


class AddBody(msgspec.Struct):
    """What `POST /account/3pid/add` holds."""

    client_secret: str
    sid: str
    auth: dict[str, Any] | None = None


@routes.get("/v3/account/3pid")
async def list_contact_addresses(call: Call[None]) -> JsonObject:
    """List the account's addresses."""
    services, user_id = call.services, call.requester.user_id
    return {"threepids": await list_addresses(services.email_addresses, user_id)}


async def list_addresses(addresses: EmailAddresses, user_id: UserID) -> list[JsonObject]:
    """Return the addresses of an account as clients are told them."""
    return [
        {
            "medium": EMAIL,
            "address": each.address,
            "validated_at": each.validated_ms,
            "added_at": each.added_ms,
        }
        for each in await addresses.find_all(user_id)
    ]


@routes.post("/v3/register/email/requestToken", body=dict, auth=Auth.NONE, limit="email")
async def request_token_to_register(call: Call[JsonObject]) -> JsonObject:
    """Send a mail to who wants to create an account."""
    if not call.services.email_verifications.is_enabled:
        raise _not_supported()
    call.services.registration.get_flows()
    return await _send_mail(call, REGISTER)


@routes.post("/v3/account/3pid/email/requestToken", body=dict, auth=Auth.NONE, limit="email")
async def request_token_to_add(call: Call[JsonObject]) -> JsonObject:
    """Send a mail to who wants to add an address to an account."""
    if not call.services.email_verifications.is_enabled:
        raise _not_supported()
    return await _send_mail(call, ADD)


@routes.post("/v3/account/password/email/requestToken", body=dict, auth=Auth.NONE, limit="email")
async def request_token_for_password(call: Call[JsonObject]) -> JsonObject:
    """Send a mail to who has forgotten the password."""
    if not call.services.email_verifications.is_enabled:
        raise _no_account()
    return await _send_mail(call, PASSWORD)


async def _send_mail(call: Call[JsonObject], purpose: Purpose) -> JsonObject:
    body = msgspec.convert(call.body, MailBody)
    sid = await call.services.email_verifications.request(
        purpose, body.email, body.client_secret, body.send_attempt, body.next_link or ""
    )
    return {"sid": sid}


@routes.post("/v3/register/msisdn/requestToken", body=dict, auth=Auth.NONE)
@routes.post("/v3/account/3pid/msisdn/requestToken", body=dict, auth=Auth.NONE)
async def request_sms_for_new_number(call: Call[JsonObject]) -> JsonObject:
    """Refuse to verify a telephone number that an account might get."""
    raise _not_supported()


@routes.post("/v3/account/password/msisdn/requestToken", body=dict, auth=Auth.NONE)
async def request_sms_for_password(call: Call[JsonObject]) -> JsonObject:
    """Say that no account has the telephone number by which a password is to be reset."""
    raise _no_account()


@routes.post("/v3/account/3pid", body=dict)
async def bind_or_add(call: Call[JsonObject]) -> JsonObject:
    """Refuse: by what is deprecated here an address would be had without asking for a password."""
    raise NotVerified


@routes.post("/v3/account/3pid/add", body=dict)
async def add_contact_address(call: Call[JsonObject]) -> JsonObject:
    """Add an address whose owner has agreed."""
    services = call.services
    if not services.email_verifications.is_enabled:
        raise NotVerified
    body = msgspec.convert(call.body, AddBody)
    verified = await services.email_verifications.get_validated(ADD, body.sid, body.client_secret)
    await services.email_addresses.check_free(verified.address)
    await require_confirmation(call, body.auth)
    await services.email_addresses.add(call.requester.user_id, verified)
    return {}


def _not_supported() -> MatrixError:
    return MatrixError(
        400,
        "M_THREEPID_MEDIUM_NOT_SUPPORTED",
        "Accounts of this server have no e-mail address or telephone number",
    )


def _no_account() -> MatrixError:
    return MatrixError(
        400, "M_THREEPID_NOT_FOUND", "No account of this server has an address: ask administrators"
    )
