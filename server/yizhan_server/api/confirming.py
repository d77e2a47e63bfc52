"""How a handler demands user-interactive authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_server.accounts.confirmation import BY_PASSWORD, Confirmed

if TYPE_CHECKING:
    from yizhan_server.accounts.confirmation import Flow
    from yizhan_server.api.routing import Call


async def require_confirmation(
    call: Call[Any],
    auth: dict[str, Any] | None,
    flows: tuple[Flow, ...] = BY_PASSWORD,
    *,
    new_session: str | None = None,
) -> Confirmed:
    """Return when `auth` (that key of the body, null counting as absent) completes a flow.

    Otherwise the 401 with the remaining stages is answered. Make every other check that can
    refuse the call before this one, so that nobody confirms in vain. Application services are
    asked for nothing more than their token.
    """
    requester = call.maybe_requester
    if requester is not None and requester.appservice is not None:
        return Confirmed()
    return await call.services.confirmations.require(
        auth,
        operation=f"{call.request.method} {call.request.path}",
        user_id=None if requester is None else requester.user_id,
        flows=flows,
        new_session=new_session,
    )
