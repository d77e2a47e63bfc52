"""Sending server notices: the endpoint that admin tools for Synapse know.

Spec: client-server API, "Server Notices".
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.identifiers import parse_user_id
from yizhan_server.rooms.writer import ClientTxn

routes = Routes(prefix="/_synapse/admin")


class NoticeBody(msgspec.Struct):
    """What is said, and to whom."""

    user_id: str
    content: dict[str, Any]
    type: str = "m.room.message"
    state_key: str | None = None


@routes.post("/v1/send_server_notice", auth=Auth.ADMIN, body=NoticeBody)
async def send_notice(call: Call[NoticeBody]) -> JsonObject:
    """Say something to a user."""
    return await _send(call, None)


@routes.put("/v1/send_server_notice/{txn_id}", auth=Auth.ADMIN, body=NoticeBody)
async def send_notice_once(call: Call[NoticeBody]) -> JsonObject:
    """Say something to a user; the same transaction id says it once."""
    requester = call.requester
    scope = f"notice/{call.body.user_id}"
    txn = ClientTxn(requester.user_id, requester.device_id, scope, call.path["txn_id"])
    return await _send(call, txn)


async def _send(call: Call[NoticeBody], txn: ClientTxn | None) -> JsonObject:
    body = call.body
    await call.services.record.note(
        call.administrator.user_id, "server_notice", parse_user_id(body.user_id)
    )
    event_id = await call.services.server_notices.send(
        parse_user_id(body.user_id), body.content,
        kind=body.type, state_key=body.state_key, txn=txn,
    )  # fmt: skip
    return {"event_id": event_id}
