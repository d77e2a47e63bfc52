"""Which software this is.

Spec: server-server API, "Server implementation".
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import PEER_ADDRESS_LIMIT, Auth, Call, JsonObject

routes = make_routes()


@routes.get("/v1/version", auth=Auth.NONE, limit=PEER_ADDRESS_LIMIT)
async def get_version(call: Call[None]) -> JsonObject:
    """Tell name and version."""
    return {"server": {"name": "Yizhan", "version": _version()}}


@cache
def _version() -> str:
    return version("yizhan")
