"""Rooms, for administrators: the endpoints that admin tools for Synapse know.

Left out on purpose: reading the messages of a room that one is not in.

Documented by Synapse's admin API, whose paths and keys these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from yizhan_server.admin.rooms import PURGE, REMOVAL, RemovalWish
from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.flows.room_removal import Explanation
from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.identifiers import parse_user_id

if TYPE_CHECKING:
    from yizhan_server.admin.tasks import Task

routes = Routes(prefix="/_synapse/admin")

_BY_NUMBER = ("joined_members", "joined_local_members", "state_events")
"""Orders that begin with the greatest."""
_ORDERS = (
    "name", "canonical_alias", *_BY_NUMBER, "version", "creator", "encryption", "federatable",
    "public", "join_rules", "guest_access", "history_visibility",
)  # fmt: skip
_OLD_ORDERS = {"alphabetical": "name", "size": "joined_members"}

ROOM_NAME = "内容违规通知 Content Violation Notification"
MESSAGE = (
    "原来的房间因违反规定已被关闭。\n"
    "The room has been closed, for what was shared there is not permitted on this server."
)


class JoinBody(msgspec.Struct):
    """POST /v1/join."""

    user_id: str


class MakeAdminBody(msgspec.Struct):
    """POST /v1/rooms/{room}/make_room_admin."""

    user_id: str | None = None


class BlockBody(msgspec.Struct):
    """PUT /v1/rooms/{room}/block."""

    block: bool


class RemoveBody(msgspec.Struct):
    """DELETE of a room."""

    new_room_user_id: str | None = None
    room_name: str | None = None
    message: str | None = None
    block: bool = False
    purge: bool = True
    force_purge: bool = False


class PurgeBody(msgspec.Struct):
    """POST /v1/purge_history."""

    purge_up_to_event_id: str | None = None
    purge_up_to_ts: int | None = None
    delete_local_events: bool = False


@routes.get("/v1/rooms", auth=Auth.ADMIN)
async def list_rooms(call: Call[None]) -> JsonObject:
    """List rooms."""
    order = call.query_choice("order_by", (*_ORDERS, *_OLD_ORDERS), "name") or "name"
    order = _OLD_ORDERS.get(order, order)
    backwards = call.query_choice("dir", ("f", "b"), "f") == "b"
    start, limit = call.query_int("from", 0), call.query_int("limit", 100, low=1, high=1000)
    term = (call.query("search_term") or "").lower()
    public = None if call.query("public_rooms") is None else call.query_bool("public_rooms")
    empty = None if call.query("empty_rooms") is None else call.query_bool("empty_rooms")
    found = [
        room
        for room in await call.services.room_administration.list_rooms()
        if _matches(room, term)
        and (public is None or room["public"] == public)
        and (empty is None or (room["joined_members"] == 0) == empty)
    ]
    found.sort(key=lambda room: room["room_id"])
    if order in _BY_NUMBER:
        found.sort(key=lambda room: room[order], reverse=not backwards)
    else:
        # Rooms without come last.
        found.sort(key=lambda room: (room[order] is None, str(room[order])), reverse=backwards)
    answer: JsonObject = {
        "rooms": found[start : start + limit], "offset": start, "total_rooms": len(found)
    }  # fmt: skip
    if start + limit < len(found):
        answer["next_batch"] = start + limit
    if start > 0:
        answer["prev_batch"] = max(0, start - limit)
    return answer


def _matches(room: JsonObject, term: str) -> bool:
    alias = (room["canonical_alias"] or "").partition(":")[0]
    return any(term in text.lower() for text in (room["name"] or "", alias, room["room_id"]))


@routes.get("/v1/rooms/{room_id}", auth=Auth.ADMIN)
async def get_room(call: Call[None]) -> JsonObject:
    """Show a room."""
    return await call.services.room_administration.details(call.path["room_id"])


@routes.get("/v1/rooms/{room_id}/members", auth=Auth.ADMIN)
async def list_members(call: Call[None]) -> JsonObject:
    """List who is joined to a room."""
    members = await call.services.room_administration.joined_members(call.path["room_id"])
    return {"members": members, "total": len(members)}


@routes.get("/v1/rooms/{room_id}/state", auth=Auth.ADMIN)
async def get_state(call: Call[None]) -> JsonObject:
    """Show the state of a room."""
    events = await call.services.room_administration.state(
        call.administrator, call.path["room_id"], call.query("type")
    )
    return {"state": [orjson.Fragment(event) for event in events]}


@routes.post("/v1/join/{room}", auth=Auth.ADMIN, body=JoinBody)
async def join(call: Call[JoinBody]) -> JsonObject:
    """Make somebody join a room."""
    rooms = call.services.room_administration
    room_id = await rooms.resolve(call.path["room"])
    await rooms.join(call.administrator, parse_user_id(call.body.user_id), room_id)
    return {"room_id": room_id}


@routes.post("/v1/rooms/{room}/make_room_admin", auth=Auth.ADMIN, body=MakeAdminBody)
async def make_room_admin(call: Call[MakeAdminBody]) -> JsonObject:
    """Give somebody, or oneself, the highest power in a room."""
    rooms = call.services.room_administration
    await rooms.make_room_admin(
        call.administrator,
        parse_user_id(call.body.user_id or call.requester.user_id),
        await rooms.resolve(call.path["room"]),
    )
    return {}


# region blocking


@routes.get("/v1/rooms/{room_id}/block", auth=Auth.ADMIN)
async def is_blocked(call: Call[None]) -> JsonObject:
    """Tell whether a room is blocked."""
    actor = await call.services.room_administration.find_block(call.path["room_id"])
    return {"block": False} if actor is None else {"block": True, "user_id": actor}


@routes.put("/v1/rooms/{room_id}/block", auth=Auth.ADMIN, body=BlockBody)
async def set_blocked(call: Call[BlockBody]) -> JsonObject:
    """Block a room, or no longer."""
    room_id = call.path["room_id"]
    if not room_id.startswith("!"):
        raise InvalidParam("That is not the id of a room")
    await call.services.room_administration.set_blocked(
        call.administrator, room_id, is_blocked=call.body.block
    )
    return {"block": call.body.block}


# region removing


@routes.delete("/v1/rooms/{room_id}", auth=Auth.ADMIN, body=RemoveBody)
async def remove_room(call: Call[RemoveBody]) -> JsonObject:
    """Close a room and remove it, and answer when that is done."""
    rooms, room_id = call.services.room_administration, call.path["room_id"]
    if call.body.block and await call.services.rooms.find(room_id) is None:
        # What is not here can be blocked beforehand.
        await rooms.set_blocked(call.administrator, room_id, is_blocked=True)
        return _closing(None)
    task = await rooms.begin_removal(call.administrator, room_id, _wish(call.body), wait=True)
    return _closing(task)


@routes.delete("/v2/rooms/{room_id}", auth=Auth.ADMIN, body=RemoveBody)
async def begin_removal(call: Call[RemoveBody]) -> JsonObject:
    """Begin to close a room and remove it."""
    task = await call.services.room_administration.begin_removal(
        call.administrator, call.path["room_id"], _wish(call.body), wait=False
    )
    return {"delete_id": task.task_id}


@routes.get("/v2/rooms/{room_id}/delete_status", auth=Auth.ADMIN)
async def list_removals(call: Call[None]) -> JsonObject:
    """Tell what became of the removals of a room."""
    tasks = call.services.room_administration.tasks_of(call.path["room_id"], REMOVAL)
    return {"results": [_removal(task) for task in tasks]}


@routes.get("/v2/rooms/delete_status/{delete_id}", auth=Auth.ADMIN)
async def get_removal(call: Call[None]) -> JsonObject:
    """Tell what became of a removal."""
    return _removal(call.services.room_administration.find_task(call.path["delete_id"], REMOVAL))


def _wish(body: RemoveBody) -> RemovalWish:
    explanation = None
    if body.new_room_user_id is not None:
        explanation = Explanation(
            parse_user_id(body.new_room_user_id), body.room_name or ROOM_NAME,
            body.message or MESSAGE,
        )  # fmt: skip
    return RemovalWish(
        explanation=explanation, block=body.block, purge=body.purge, force_purge=body.force_purge
    )


def _closing(task: Task | None) -> JsonObject:
    closing = None if task is None else task.closing
    return {
        "kicked_users": [] if closing is None else closing.left,
        "failed_to_kick_users": [] if closing is None else closing.stuck,
        "local_aliases": [] if closing is None else closing.aliases,
        "new_room_id": None if closing is None else closing.new_room_id,
    }


def _removal(task: Task) -> JsonObject:
    shown: JsonObject = {
        "delete_id": task.task_id,
        "room_id": task.room_id,
        "status": task.status,
        "shutdown_room": _closing(task),
    }
    if task.error is not None:
        shown["error"] = task.error
    return shown


# region history


@routes.post("/v1/purge_history/{room_id}", auth=Auth.ADMIN, body=PurgeBody)
async def purge_history(call: Call[PurgeBody]) -> JsonObject:
    """Begin to remove what precedes an event or a time."""
    return await _purge(call, call.body.purge_up_to_event_id)


@routes.post("/v1/purge_history/{room_id}/{event_id}", auth=Auth.ADMIN, body=PurgeBody)
async def purge_history_before(call: Call[PurgeBody]) -> JsonObject:
    """Begin to remove what precedes an event."""
    return await _purge(call, call.path["event_id"])


async def _purge(call: Call[Any], event_id: str | None) -> JsonObject:
    task = await call.services.room_administration.purge_history(
        call.administrator, call.path["room_id"], event_id=event_id,
        ts_ms=call.body.purge_up_to_ts, local_too=call.body.delete_local_events,
    )  # fmt: skip
    return {"purge_id": task.task_id}


@routes.get("/v1/purge_history_status/{purge_id}", auth=Auth.ADMIN)
async def get_purge(call: Call[None]) -> JsonObject:
    """Tell what became of a purge."""
    task = call.services.room_administration.find_task(call.path["purge_id"], PURGE)
    return {"status": task.status} | ({} if task.error is None else {"error": task.error})
