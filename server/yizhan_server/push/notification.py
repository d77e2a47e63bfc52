"""The body that a push gateway is sent.

Spec: push gateway API, POST /_matrix/push/v1/notify; client-server API, "Push Notifications".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_server.storage.events import HIGHLIGHT, SOUND, StoredEvent
from yizhan_server.storage.pushers import Notice, Pusher

JsonObject = dict[str, Any]

ID_ONLY = "event_id_only"


@dataclass(frozen=True, slots=True)
class Subject:
    """The event, and what a notification says of its room and sender."""

    room_id: str
    event: StoredEvent
    sender_name: str | None
    room_name: str | None
    room_alias: str | None
    user_is_target: bool
    unread: int


def tweaks_of(notice: Notice) -> JsonObject:
    """Return the tweaks of the rule that matched."""
    if notice.tweaks is not None:
        tweaks = orjson.loads(notice.tweaks)
        assert isinstance(tweaks, dict)
        return tweaks
    tweaks = {}
    if notice.flags & SOUND:
        tweaks["sound"] = "default"
    if notice.flags & HIGHLIGHT:
        tweaks["highlight"] = True
    return tweaks


def make_notification(pusher: Pusher, notice: Notice, subject: Subject) -> JsonObject:
    """Return the body for one pusher; with `event_id_only` it names the event and no more."""
    tweaks = tweaks_of(notice)
    device = _device(pusher) | {"tweaks": tweaks}
    event = subject.event
    content = event.content
    urgent = event.type == "m.room.encrypted" or bool(tweaks) or subject.user_is_target
    notification: JsonObject = {
        "event_id": event.event_id,
        # Gone from the specification; gateways written before that know no other.
        "id": event.event_id,
        "room_id": subject.room_id,
        "prio": "high" if urgent else "low",
        "counts": {"unread": subject.unread},
        "devices": [device],
    }
    if device["data"].get("format") != ID_ONLY:
        notification.update(
            type=event.type,
            sender=event.sender,
            content=content,
            user_is_target=subject.user_is_target,
        )
        for key, value in (
            ("sender_display_name", subject.sender_name),
            ("room_name", subject.room_name or subject.room_alias),
            ("room_alias", subject.room_alias),
            ("membership", content.get("membership") if event.type == "m.room.member" else None),
        ):
            if value is not None:
                notification[key] = value
    return {"notification": notification}


def make_badge(pusher: Pusher, unread: int) -> JsonObject:
    """Return the body that only tells a new count: its user has read something elsewhere."""
    return {"notification": {"counts": {"unread": unread}, "devices": [_device(pusher)]}}


def _device(pusher: Pusher) -> JsonObject:
    data = orjson.loads(pusher.data)
    data.pop("url", None)
    return {
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "pushkey_ts": pusher.created_ms // 1000,
        "data": data,
    }
