"""The server itself, for administrators: its version, other servers, the record of their acts.

The version has the path that admin tools for Synapse ask first. The record, and the list of joins
that are under way, are Yizhan's own.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.storage.audit_log import LATEST

routes = Routes(prefix="/_synapse/admin")
own_routes = Routes(prefix="/_yizhan/admin")


@routes.get("/v1/server_version", auth=Auth.ADMIN)
async def server_version(call: Call[None]) -> JsonObject:
    """Tell which server this is."""
    del call
    return {"server_version": f"Yizhan {_version()}"}


@routes.get("/v1/federation/destinations", auth=Auth.ADMIN)
async def list_destinations(call: Call[None]) -> JsonObject:
    """List other servers: which do not answer, and which are owed something."""
    destinations = await call.services.federation_status.list_all()
    return {"destinations": destinations, "total": len(destinations)}


@cache
def _version() -> str:
    return version("yizhan")


@own_routes.get("/v1/joins", auth=Auth.ADMIN)
async def list_joins(call: Call[None]) -> JsonObject:
    """List the joins of other servers' rooms that are under way, and how far each has come."""
    return {"joins": call.services.federation_status.list_joins()}


@own_routes.get("/v1/record", auth=Auth.ADMIN)
async def list_record(call: Call[None]) -> JsonObject:
    """List what administrators did, the latest first."""
    limit = call.query_int("limit", 100, low=1, high=500)
    before = call.query_int("from", LATEST, high=LATEST)
    acts = await call.services.record.list_latest(limit, before)
    answer: JsonObject = {"record": acts}
    if len(acts) == limit:
        answer["next_token"] = acts[-1]["id"]
    return answer
