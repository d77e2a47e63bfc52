"""GET /notifications.

Spec: client-server API, "Listing notifications".
"""

from __future__ import annotations

import orjson

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam

routes = Routes()

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
MAX_TOKEN_LENGTH = 18


@routes.get("/v3/notifications")
async def list_notifications(call: Call[None]) -> bytes:
    """List what the requester was notified of, newest first."""
    start = call.query("from")
    if start is not None and not (
        start.isascii() and start.isdigit() and len(start) <= MAX_TOKEN_LENGTH
    ):
        raise InvalidParam("'from' is not a token of this list")
    page = await call.services.notification_history.page(
        call.requester,
        None if not start else int(start),
        call.query_int("limit", DEFAULT_LIMIT, low=1, high=MAX_LIMIT),
        highlights_only=call.query("only") == "highlight",
    )
    answer: JsonObject = {"notifications": page.notifications}
    if page.next_position is not None:
        answer["next_token"] = str(page.next_position)
    return orjson.dumps(answer)
