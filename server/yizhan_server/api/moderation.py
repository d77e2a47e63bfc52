"""Locking and suspending accounts, for administrators.

Spec: client-server API, "Account moderation", "Server Administration".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import Forbidden, InvalidParam, NotFound
from yizhan_server.protocol.identifiers import localpart_of, parse_user_id

if TYPE_CHECKING:
    from yizhan_server.storage.accounts import Account

routes = Routes()


class SuspendBody(msgspec.Struct):
    """PUT /admin/suspend."""

    suspended: bool


class LockBody(msgspec.Struct):
    """PUT /admin/lock."""

    locked: bool


@routes.get("/v1/admin/suspend/{user_id}", auth=Auth.ADMIN)
async def is_suspended(call: Call[None]) -> JsonObject:
    """Tell whether an account is suspended."""
    return {"suspended": (await _subject(call)).is_suspended}


@routes.put("/v1/admin/suspend/{user_id}", auth=Auth.ADMIN, body=SuspendBody)
async def set_suspended(call: Call[SuspendBody]) -> JsonObject:
    """Suspend an account, or end that."""
    account = await _subject(call)
    _check_below(call, account)
    await call.services.administration.set_suspended(
        call.requester.user_id, localpart_of(account.user_id), is_suspended=call.body.suspended
    )
    return {"suspended": call.body.suspended}


@routes.get("/v1/admin/lock/{user_id}", auth=Auth.ADMIN)
async def is_locked(call: Call[None]) -> JsonObject:
    """Tell whether an account is locked."""
    return {"locked": (await _subject(call)).is_locked}


@routes.put("/v1/admin/lock/{user_id}", auth=Auth.ADMIN, body=LockBody)
async def set_locked(call: Call[LockBody]) -> JsonObject:
    """Lock an account, or end the lock."""
    account = await _subject(call)
    _check_below(call, account)
    await call.services.administration.set_locked(
        call.requester.user_id, localpart_of(account.user_id), is_locked=call.body.locked
    )
    return {"locked": call.body.locked}


async def _subject(call: Call[Any]) -> Account:
    user_id = parse_user_id(call.path["user_id"])
    if not call.services.accounts.is_local(user_id):
        raise InvalidParam("This user is of another server")
    account = await call.services.accounts.find_active(user_id)
    if account is None:
        raise NotFound("There is no such user")
    return account


def _check_below(call: Call[Any], account: Account) -> None:
    if account.user_id == call.requester.user_id:
        raise Forbidden("You cannot do this to yourself")
    if account.is_admin:
        raise Forbidden("This user is an administrator too")
