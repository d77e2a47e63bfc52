"""The body of `/notify`, parsed once; nothing behind this module looks at raw JSON.

Homeservers send `null` and `""` where the specification says "omitted" (badge updates mostly),
so both count as absent. Unknown keys are ignored, since later versions will add some.

Spec: push gateway API, POST /_matrix/push/v1/notify
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from typing_extensions import override

MAX_DEVICES = 100
"""Devices in one request: a homeserver names those of one user, most send one at a time."""

# The client-server API's bounds on identifiers (255 bytes), app_id and pushkey.
_Identifier = Annotated[str, Meta(max_length=255)]
_AppId = Annotated[str, Meta(min_length=1, max_length=64)]
_Pushkey = Annotated[str, Meta(min_length=1, max_length=512)]
_Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class MalformedNotification(Exception):
    """The body is not what the specification describes; `errcode` says in which way."""

    def __init__(self, errcode: str, message: str) -> None:
        super().__init__(message)
        self.errcode = errcode


class Counts(Struct, frozen=True):
    """What the recipient has not read, over all rooms."""

    unread: _Count | None = None
    missed_calls: _Count | None = None


class Device(Struct, frozen=True):
    """One pusher: which app, and where it wants to be reached.

    `pushkey` and `data` are capabilities to notify somebody's device: neither is ever logged,
    which is why they are not in the `repr`.
    """

    app_id: _AppId
    pushkey: _Pushkey
    data: dict[str, Any] | None = None
    tweaks: dict[str, Any] | None = None

    @override
    def __repr__(self) -> str:
        return f"Device(app_id={self.app_id!r})"


class Notification(Struct, frozen=True):
    """An event to alert about, or (without `event_id`) new unread counts only."""

    devices: Annotated[list[Device], Meta(max_length=MAX_DEVICES)]
    event_id: _Identifier | None = None
    room_id: _Identifier | None = None
    type: _Identifier | None = None
    sender: _Identifier | None = None
    sender_display_name: str | None = None
    room_name: str | None = None
    room_alias: str | None = None
    user_is_target: bool | None = None
    prio: str | None = None
    content: dict[str, Any] | None = None
    counts: Counts | None = None

    @property
    def is_low_priority(self) -> bool:
        """Whether delivery may wait for the device's convenience."""
        return self.prio == "low"

    @override
    def __repr__(self) -> str:
        return f"Notification(event_id={self.event_id!r}, devices={self.devices!r})"


class _Body(Struct, frozen=True):
    notification: Notification


_decoder = msgspec.json.Decoder(_Body)


def parse_notification(body: bytes) -> Notification:
    """Read the body of a request; raises MalformedNotification (M_NOT_JSON, M_BAD_JSON)."""
    try:
        return _decoder.decode(body).notification
    except msgspec.ValidationError as error:
        raise MalformedNotification("M_BAD_JSON", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedNotification("M_NOT_JSON", "The body is not JSON in UTF-8") from None
    except RecursionError:
        raise MalformedNotification("M_BAD_JSON", "The body is nested too deeply") from None
