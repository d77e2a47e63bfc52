"""How a handler demands user-interactive authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_server.accounts.confirmation import BY_PASSWORD

if TYPE_CHECKING:
    from yizhan_server.accounts.confirmation import Confirmed, Flow
    from yizhan_server.api.routing import Call


async def require_confirmation(
    call: Call[Any], auth: dict[str, Any] | None, flows: tuple[Flow, ...] = BY_PASSWORD
) -> Confirmed:
    """Return when `auth` (that key of the body, null counting as absent) completes a flow.

    Otherwise the 401 with the remaining stages is answered. Make every other check that can
    refuse the call before this one, so that nobody confirms in vain.
    """
    requester = call.maybe_requester
    return await call.services.confirmations.require(
        auth,
        operation=f"{call.request.method} {call.request.path}",
        user_id=None if requester is None else requester.user_id,
        flows=flows,
    )
