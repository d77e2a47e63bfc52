"""Typing, presence, receipts and read markers.

Spec: client-server API, "Typing Notifications", "Presence", "Receipts", "Fully read markers".
"""

from __future__ import annotations

import msgspec

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.ephemeral.presence import MAX_STATUS, STATES
from yizhan_server.ephemeral.receipts import FULLY_READ, PRIVATE, READ
from yizhan_server.ephemeral.typing import DEFAULT_TIMEOUT_MS
from yizhan_server.protocol.errors import Forbidden, InvalidParam
from yizhan_server.protocol.identifiers import parse_user_id
from yizhan_server.storage.rooms import share_a_room

routes = Routes()


class TypingBody(msgspec.Struct):
    """PUT /typing."""

    typing: bool
    timeout: int = DEFAULT_TIMEOUT_MS


class ReceiptBody(msgspec.Struct):
    """POST /receipt."""

    thread_id: str | None = None


class MarkersBody(msgspec.Struct):
    """POST /read_markers."""

    fully_read: str | None = msgspec.field(name="m.fully_read", default=None)
    read: str | None = msgspec.field(name="m.read", default=None)
    private: str | None = msgspec.field(name="m.read.private", default=None)


class PresenceBody(msgspec.Struct):
    """PUT /presence."""

    presence: str
    status_msg: str | None = None


@routes.put("/v3/rooms/{room_id}/typing/{user_id}", body=TypingBody)
async def set_typing(call: Call[TypingBody]) -> JsonObject:
    """Say that one types, or no longer does."""
    if call.path["user_id"] != call.requester.user_id:
        raise Forbidden("You can only type yourself")
    joined = await call.joined_room()
    timeout_ms = max(0, call.body.timeout) if call.body.typing else None
    call.services.typing.set(joined.room, joined.user_id, timeout_ms)
    return {}


@routes.post("/v3/rooms/{room_id}/receipt/{type}/{event_id}", body=ReceiptBody)
async def send_receipt(call: Call[ReceiptBody]) -> JsonObject:
    """Say how far one has read."""
    await call.joined_room()
    visible = await call.visible_event()
    if call.path["type"] == FULLY_READ:
        if call.body.thread_id is not None:
            raise InvalidParam("The fully-read marker has no threads")
        await call.services.receipts.mark_fully_read(visible)
    else:
        await call.services.receipts.advance(visible, call.path["type"], call.body.thread_id)
    return {}


@routes.post("/v3/rooms/{room_id}/read_markers", body=MarkersBody)
async def set_read_markers(call: Call[MarkersBody]) -> JsonObject:
    """Set the fully-read marker and receipts in one call."""
    joined = await call.joined_room()
    access = call.services.access.access_event
    # All of them first: a wrong one leaves the others where they are.
    markers = [
        (kind, await access(joined.user_id, joined.room.room_id, event_id))
        for kind, event_id in (
            (FULLY_READ, call.body.fully_read),
            (READ, call.body.read),
            (PRIVATE, call.body.private),
        )
        if event_id is not None
    ]
    for kind, visible in markers:
        if kind == FULLY_READ:
            await call.services.receipts.mark_fully_read(visible)
        else:
            await call.services.receipts.advance(visible, kind)
    return {}


@routes.put("/v3/presence/{user_id}/status", body=PresenceBody)
async def set_presence(call: Call[PresenceBody]) -> JsonObject:
    """Set one's presence."""
    if call.path["user_id"] != call.requester.user_id:
        raise Forbidden("You can only set your own presence")
    if call.body.presence not in STATES:
        raise InvalidParam(f"'presence' must be one of {', '.join(STATES)}")
    if len(call.body.status_msg or "") > MAX_STATUS:
        raise InvalidParam(f"'status_msg' is longer than {MAX_STATUS} characters")
    call.services.presence.set(call.requester.user_id, call.body.presence, call.body.status_msg)
    return {}


@routes.get("/v3/presence/{user_id}/status")
async def get_presence(call: Call[None]) -> JsonObject:
    """Return the presence of somebody with whom one shares a room."""
    target, requester = parse_user_id(call.path["user_id"]), call.requester.user_id
    if target != requester and not await share_a_room(call.services.db, target, requester):
        raise Forbidden("You share no room with this user")
    return call.services.presence.get(target)
