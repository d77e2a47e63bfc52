"""Who makes an API call, once the access token has been checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_server.protocol.identifiers import DeviceID, UserID


@dataclass(frozen=True, slots=True)
class Requester:
    """The owner of a valid access token. Holding one is proof of authentication."""

    user_id: UserID
    device_id: DeviceID
    token_nid: int
    is_admin: bool = False
    is_guest: bool = False
    is_suspended: bool = False
    appservice: str | None = None
    """The application service that speaks for the user; then `device_id` may be empty."""
    is_rate_limited: bool = True
