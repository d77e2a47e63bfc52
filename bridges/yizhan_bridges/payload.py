"""What a push message says, cut to fit. Pure.

The core - which event, in which room, how many unread - always fits and is never cut: a client
fetches the rest from its homeserver and decrypts it there. Whatever else the administrator lets
out gives way to it in a fixed order, from what a person misses least.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import msgspec

from yizhan_bridges.notification import Notification

JsonObject = dict[str, Any]

_SHOWN_CONTENT = ("msgtype", "body", "membership")
_ELLIPSIS = "…"


class Detail(IntEnum):
    """How much of a notification leaves the gateway towards the device; each includes the last."""

    IDS = 0
    """Event id, room id and counts."""
    NAMES = 1
    """Also who sent what type of event, and the names of sender and room."""
    CONTENT = 2
    """Also the content of the event, when the homeserver sent it and it is not encrypted."""


def build_payload(
    notification: Notification, default_payload: JsonObject, detail: Detail, limit: int
) -> bytes:
    """Return the JSON object for a device, of at most `limit` bytes.

    `default_payload` is what the client asked to get back each time (which account this is).
    `limit` must have room for the core: two identifiers of 255 characters and two counts.
    """
    core = _core(notification)
    names = _names(notification) if detail >= Detail.NAMES else {}
    content = _content(notification) if detail >= Detail.CONTENT else None
    for smaller in _reductions(default_payload, names, content):
        encoded = _encode({**smaller, **core}, limit)
        if encoded is not None:
            return encoded
    cut = _encode(core, limit)
    if cut is None:
        raise ValueError("the limit has no room for the core of a notification")
    return cut


def _core(notification: Notification) -> JsonObject:
    counts = notification.counts
    core = {
        "event_id": notification.event_id or None,
        "room_id": notification.room_id or None,
        "unread": counts.unread if counts else None,
        "missed_calls": counts.missed_calls if counts else None,
    }
    return {key: value for key, value in core.items() if value is not None}


def _names(notification: Notification) -> JsonObject:
    names = {
        "type": notification.type,
        "sender": notification.sender,
        "sender_display_name": notification.sender_display_name,
        "room_name": notification.room_name,
        "room_alias": notification.room_alias,
        "user_is_target": notification.user_is_target,
    }
    return {key: value for key, value in names.items() if value not in {None, ""}}


def _content(notification: Notification) -> JsonObject | None:
    # Ciphertext is of no use to a service worker, which has no keys, and fills the message.
    if notification.type == "m.room.encrypted" or not notification.content:
        return None
    return notification.content


def _reductions(
    defaults: JsonObject, names: JsonObject, content: JsonObject | None
) -> Iterator[JsonObject]:
    """Yield what may accompany the core, each time less of it."""
    if content is not None:
        yield {**defaults, **names, "content": content}
        shown = {key: content[key] for key in _SHOWN_CONTENT if key in content}
        yield {**defaults, **names, "content": shown}
        body = shown.get("body")
        # Halves, not a search for the exact fit: a notification shows a line or two anyway.
        while isinstance(body, str) and len(body) > 1:
            body = body[: len(body) // 2]
            yield {**defaults, **names, "content": {**shown, "body": body + _ELLIPSIS}}
    yield {**defaults, **names}
    identifiers: JsonObject = {key: names[key] for key in ("type", "sender") if key in names}
    yield {**defaults, **identifiers}
    yield defaults


def _encode(payload: JsonObject, limit: int) -> bytes | None:
    try:
        encoded = msgspec.json.encode(payload)
    except RecursionError:
        # Decoding reaches a little deeper than encoding; such depth exceeds any limit.
        return None
    return encoded if len(encoded) <= limit else None
