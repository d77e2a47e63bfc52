"""The rooms of a space, as far as another server may know of them.

Spec: server-server API, "Spaces".
"""

from __future__ import annotations

from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Call, JsonObject

routes = make_routes()


@routes.get("/v1/hierarchy/{room_id}")
async def get_hierarchy(call: Call[None]) -> JsonObject:
    """Show a space with its children."""
    return await call.services.hierarchy.for_server(
        call.origin,
        call.path["room_id"],
        suggested_only=call.query_bool("suggested_only"),
    )
