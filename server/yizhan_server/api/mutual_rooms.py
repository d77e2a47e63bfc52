"""Which rooms the requester shares with somebody.

Spec: client-server API, "Mutual Rooms".
"""

from __future__ import annotations

from yizhan_server.api.routing import Call, JsonObject, Routes
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.identifiers import parse_user_id
from yizhan_server.storage.rooms import mutual_rooms

routes = Routes()

MAX_PAGE = 1000


@routes.get(
    "/v1/mutual_rooms",
    also=(
        "/unstable/uk.half-shot.msc2666/user/mutual_rooms",
        "/unstable/org.matrix.msc2666/mutual_rooms",
    ),
)
async def list_mutual_rooms(call: Call[None]) -> JsonObject:
    """List the rooms that the requester and another user are both in."""
    user_id = parse_user_id(call.query_required("user_id"))
    if user_id == call.requester.user_id:
        raise InvalidParam("You share all your rooms with yourself")
    start = call.query("from")
    rooms = await mutual_rooms(call.services.db, call.requester.user_id, user_id)
    # The token is the last room shown; the ids are in order.
    left = [room for room in rooms if start is None or room > start]
    answer: JsonObject = {"joined": left[:MAX_PAGE], "count": len(rooms)}
    if len(left) > MAX_PAGE:
        answer["next_batch"] = left[MAX_PAGE - 1]
    return answer
