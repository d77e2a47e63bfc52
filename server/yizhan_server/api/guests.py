"""What a guest may do: read, talk where guests are admitted, keep its own name and keys.

Everything else is closed to it, whatever is added to the API later included.

Spec: client-server API, "Guest Access".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Iterable

_OPEN = {
    "GET": (
        "/v3/rooms/{room_id}/state",
        "/v3/rooms/{room_id}/context/",
        "/v3/rooms/{room_id}/event/",
        "/v3/rooms/{room_id}/messages",
        "/v3/rooms/{room_id}/members",
        "/v3/rooms/{room_id}/initialSync",
        "/v1/rooms/{room_id}/hierarchy",
        "/v1/rooms/{room_id}/threads",
        "/v1/rooms/{room_id}/relations/",
        "/v1/room_summary/",
        "/unstable/im.nheko.summary/",
        "/v3/sync",
        "/v3/events",
        "/v1/media/download/",
        "/v1/media/thumbnail/",
        "/v1/media/config",
        "/v3/devices",
        "/v3/account/whoami",
        "/v3/capabilities",
        "/v3/directory/room/",
        "/v3/publicRooms",
        "/v3/pushrules",
        "/v3/user/{user_id}/filter/",
        "/v3/profile/",
        "/v3/voip/turnServer",
    ),
    "POST": (
        "/v3/rooms/{room_id}/join",
        "/v3/join/",
        "/v3/rooms/{room_id}/leave",
        "/v3/rooms/{room_id}/send/",
        "/v3/rooms/{room_id}/read_markers",
        "/v3/rooms/{room_id}/receipt/",
        "/v3/keys/upload",
        "/v3/keys/query",
        "/v3/keys/claim",
        "/v3/user/{user_id}/filter",
        "/v3/logout",
        "/v3/publicRooms",
        "/unstable/org.matrix.simplified_msc3575/sync",
        "/v4/sync",
    ),
    "PUT": (
        "/v3/rooms/{room_id}/send/",
        "/v3/rooms/{room_id}/state/",
        "/v3/rooms/{room_id}/typing/",
        "/v3/sendToDevice/",
        "/v3/profile/",
        "/v3/devices/",
    ),
    "DELETE": ("/v3/profile/",),
}
_PREFIXES = {
    method: tuple(f"/_matrix/client{path}" for path in paths) for method, paths in _OPEN.items()
}


def is_open_to_guests(method: str, paths: Iterable[str]) -> bool:
    """Tell whether a guest may use the endpoint that is served at these paths."""
    return any(path.startswith(_PREFIXES.get(method, ())) for path in paths)


def guest_forbidden() -> MatrixError:
    """Return the error for what a guest may not do."""
    return MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests cannot do this")
