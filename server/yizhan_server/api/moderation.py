"""Locking and suspending accounts, for administrators.

Spec: client-server API, "Account moderation", "Server Administration".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yizhan_server.admin.gate import access_subject, get_account
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import NotFound
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
    return {"suspended": (await _account(call)).is_suspended}


@routes.put("/v1/admin/suspend/{user_id}", auth=Auth.ADMIN, body=SuspendBody)
async def set_suspended(call: Call[SuspendBody]) -> JsonObject:
    """Suspend an account, or end that."""
    account = access_subject(call.administrator, await _account(call)).account
    await call.services.administration.set_suspended(
        call.requester.user_id, localpart_of(account.user_id), is_suspended=call.body.suspended
    )
    return {"suspended": call.body.suspended}


@routes.get("/v1/admin/lock/{user_id}", auth=Auth.ADMIN)
async def is_locked(call: Call[None]) -> JsonObject:
    """Tell whether an account is locked."""
    return {"locked": (await _account(call)).is_locked}


@routes.put("/v1/admin/lock/{user_id}", auth=Auth.ADMIN, body=LockBody)
async def set_locked(call: Call[LockBody]) -> JsonObject:
    """Lock an account, or end the lock."""
    account = access_subject(call.administrator, await _account(call)).account
    await call.services.administration.set_locked(
        call.requester.user_id, localpart_of(account.user_id), is_locked=call.body.locked
    )
    return {"locked": call.body.locked}


async def _account(call: Call[Any]) -> Account:
    account = await get_account(call.services.accounts, parse_user_id(call.path["user_id"]))
    if account.is_deactivated:
        raise NotFound("There is no such user")
    return account
