"""What a suspended account may still do.

It reads everything, and of the calls that change something only those listed here are answered:
whatever is added to the API later is closed to it until somebody decides otherwise.

Spec: client-server API, "Account suspension".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAY_CHANGE = (
    # Its sessions, and its way out.
    "/v3/logout",
    "/v3/refresh",
    "/v3/devices/",
    "/v3/delete_devices",
    "/v3/account/",
    "/v1/login/get_token",
    # Verifying devices, keys and their backup.
    "/v3/keys/",
    "/v3/room_keys/",
    "/v3/sendToDevice/",
    "/v3/user/",
    # Leaving; taking back what it wrote (`api.events` looks whose event it is).
    "/v3/rooms/{room_id}/leave",
    "/v3/rooms/{room_id}/forget",
    "/v3/rooms/{room_id}/redact/",
    # Noting what it has read, and how it wants to be told.
    "/v3/rooms/{room_id}/receipt/",
    "/v3/rooms/{room_id}/read_markers",
    "/v3/pushers/",
    "/v3/pushrules/",
    # Questions that are asked by POST.
    "/v3/search",
    "/v3/publicRooms",
    "/v3/user_directory/",
    "/unstable/org.matrix.simplified_msc3575/sync",
    "/v4/sync",
)
_PREFIXES = tuple(f"/_matrix/client{path}" for path in _MAY_CHANGE)


def is_open_to_suspended(method: str, paths: Iterable[str]) -> bool:
    """Tell whether a suspended account may use the endpoint that is served at these paths."""
    return method == "GET" or any(path.startswith(_PREFIXES) for path in paths)


def user_suspended() -> MatrixError:
    """Return the error for what a suspended account may not do."""
    return MatrixError(403, "M_USER_SUSPENDED", "You cannot do this while you are suspended")
