"""Reporting content, rooms and people, and reading the reports.

Spec: client-server API, "Reporting Content". The list has the path and the keys that admin
tools for Synapse know, and tells reports of rooms and users besides.
"""

from __future__ import annotations

import msgspec

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.flows.reporting import NEWEST
from yizhan_server.protocol.identifiers import parse_user_id

routes = Routes()
admin_routes = Routes(prefix="/_synapse/admin")


class ReasonBody(msgspec.Struct):
    """What is wrong, in the reporter's words."""

    reason: str


class EventReportBody(msgspec.Struct):
    """POST /rooms/{roomId}/report/{eventId}."""

    reason: str | None = None


@routes.post("/v3/rooms/{room_id}/report/{event_id}", body=EventReportBody, limit="messages")
async def report_event(call: Call[EventReportBody]) -> JsonObject:
    """Report an event."""
    await call.services.reporting.report_event(await call.visible_event(), call.body.reason or "")
    return {}


@routes.post("/v3/rooms/{room_id}/report", body=ReasonBody, limit="messages")
async def report_room(call: Call[ReasonBody]) -> JsonObject:
    """Report a room."""
    await call.services.reporting.report_room(
        call.requester.user_id, call.path["room_id"], call.body.reason
    )
    return {}


@routes.post("/v3/users/{user_id}/report", body=ReasonBody, limit="messages")
async def report_user(call: Call[ReasonBody]) -> JsonObject:
    """Report a user."""
    await call.services.reporting.report_user(
        call.requester.user_id, parse_user_id(call.path["user_id"]), call.body.reason
    )
    return {}


@admin_routes.get("/v1/event_reports", auth=Auth.ADMIN)
async def list_reports(call: Call[None]) -> JsonObject:
    """List the reports, newest first."""
    limit = call.query_int("limit", 100, low=1, high=500)
    found = await call.services.reporting.latest(call.query_int("from", NEWEST), limit)
    answer: JsonObject = {
        "event_reports": [
            {
                "id": report.nid,
                "received_ts": report.ts_ms,
                "kind": report.kind,
                "room_id": report.room_id,
                "event_id": report.event_id,
                "user_id": report.reporter,
                "sender": report.user_id,
                "reason": report.reason,
            }
            for report in found
        ]
    }
    if len(found) == limit:
        answer["next_token"] = found[-1].nid
    return answer
