"""Files, for administrators: the endpoints that admin tools for Synapse know.

Documented by Synapse's admin API, whose paths and keys these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.identifiers import parse_user_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_server.storage.media_administration import ListedMedia

routes = Routes(prefix="/_synapse/admin")

_SORT_KEYS: dict[str, Callable[[ListedMedia], Any]] = {
    "media_id": lambda each: each.media_id,
    "upload_name": lambda each: each.file_name or "",
    "created_ts": lambda each: each.created_ms,
    # When a file was last read is not kept.
    "last_access_ts": lambda each: 0,
    "media_length": lambda each: each.size,
    "media_type": lambda each: each.content_type,
    "quarantined_by": lambda each: each.quarantined_by or "",
    "safe_from_quarantine": lambda each: each.is_protected,
}


@routes.get("/v1/media/{server_name}/{media_id}", auth=Auth.ADMIN)
async def get_media(call: Call[None]) -> JsonObject:
    """Show a file."""
    found = await call.services.media_administration.get(
        call.path["server_name"], call.path["media_id"]
    )
    return {
        "media_info": {
            **_to_json(found),
            "media_origin": found.server,
            "user_id": found.owner,
            "filesystem_id": None,
            "url_cache": None,
            "authenticated": True,
            "sha256": found.digest.hex(),
        }
    }


@routes.delete("/v1/media/{server_name}/{media_id}", auth=Auth.ADMIN)
async def delete_media(call: Call[None]) -> JsonObject:
    """Delete a file."""
    media = call.services.media_administration
    found = await media.get(call.path["server_name"], call.path["media_id"])
    media_id = found.media_id
    if found.server is None:
        await media.delete(call.administrator, media_id, [media_id])
    else:
        await media.delete_remote(call.administrator, found.server, media_id)
    return {"deleted_media": [media_id], "total": 1}


@routes.post("/v1/purge_media_cache", auth=Auth.ADMIN)
async def purge_media_cache(call: Call[None]) -> JsonObject:
    """Delete the files of other servers that nobody has read since a time."""
    call.query_required("before_ts")
    before_ms = call.query_int("before_ts", 0)
    media = call.services.media_administration
    return {"deleted": await media.purge_remote(call.administrator, before_ms)}


# region of users and rooms


@routes.get("/v1/users/{user_id}/media", auth=Auth.ADMIN)
async def list_media_of_user(call: Call[None]) -> JsonObject:
    """List what somebody uploaded, the newest first."""
    found = await _of_user(call)
    start, limit = call.query_int("from", 0), call.query_int("limit", 100, low=1, high=1000)
    answer: JsonObject = {
        "media": [_to_json(each) for each in found[start : start + limit]], "total": len(found)
    }  # fmt: skip
    if start + limit < len(found):
        answer["next_token"] = start + limit
    return answer


@routes.delete("/v1/users/{user_id}/media", auth=Auth.ADMIN)
async def delete_media_of_user(call: Call[None]) -> JsonObject:
    """Delete what somebody uploaded, the newest first."""
    limit = call.query_int("limit", 100, low=1, high=1000)
    media_ids = [each.media_id for each in (await _of_user(call))[:limit]]
    await call.services.media_administration.delete(
        call.administrator, call.path["user_id"], media_ids
    )
    return {"deleted_media": media_ids, "total": len(media_ids)}


async def _of_user(call: Call[None]) -> list[ListedMedia]:
    order = call.query_choice("order_by", tuple(_SORT_KEYS), None)
    direction = call.query_choice("dir", ("f", "b"), "b" if order is None else "f")
    found = await call.services.media_administration.of_user(parse_user_id(call.path["user_id"]))
    found.sort(key=_SORT_KEYS[order or "created_ts"], reverse=direction == "b")
    return found


@routes.get("/v1/room/{room_id}/media", auth=Auth.ADMIN)
async def list_media_of_room(call: Call[None]) -> JsonObject:
    """List the files that a room names."""
    local, remote = await call.services.media_administration.of_room(call.path["room_id"])
    return {"local": local, "remote": remote}


# region quarantine


@routes.post("/v1/media/quarantine/{server_name}/{media_id}", auth=Auth.ADMIN, body=dict)
async def quarantine(call: Call[JsonObject]) -> JsonObject:
    """Serve a file no longer."""
    await call.services.media_administration.quarantine(
        call.administrator, call.path["server_name"], call.path["media_id"]
    )
    return {}


@routes.post("/v1/media/unquarantine/{server_name}/{media_id}", auth=Auth.ADMIN, body=dict)
async def unquarantine(call: Call[JsonObject]) -> JsonObject:
    """Serve a file again."""
    await call.services.media_administration.unquarantine(
        call.administrator, call.path["server_name"], call.path["media_id"]
    )
    return {}


@routes.post(
    "/v1/room/{room_id}/media/quarantine", auth=Auth.ADMIN, body=dict,
    also=("/v1/quarantine_media/{room_id}",),
)  # fmt: skip
async def quarantine_room(call: Call[JsonObject]) -> JsonObject:
    """Serve nothing any more that a room names."""
    count = await call.services.media_administration.quarantine_room(
        call.administrator, call.path["room_id"]
    )
    return {"num_quarantined": count}


@routes.post("/v1/user/{user_id}/media/quarantine", auth=Auth.ADMIN, body=dict)
async def quarantine_user(call: Call[JsonObject]) -> JsonObject:
    """Serve nothing any more that somebody uploaded."""
    count = await call.services.media_administration.quarantine_user(
        call.administrator, parse_user_id(call.path["user_id"])
    )
    return {"num_quarantined": count}


@routes.post("/v1/media/protect/{media_id}", auth=Auth.ADMIN, body=dict)
async def protect(call: Call[JsonObject]) -> JsonObject:
    """Have a file served whatever is put into quarantine."""
    await call.services.media_administration.set_protected(
        call.administrator, call.path["media_id"], is_protected=True
    )
    return {}


@routes.post("/v1/media/unprotect/{media_id}", auth=Auth.ADMIN, body=dict)
async def unprotect(call: Call[JsonObject]) -> JsonObject:
    """End that."""
    await call.services.media_administration.set_protected(
        call.administrator, call.path["media_id"], is_protected=False
    )
    return {}


def _to_json(each: ListedMedia) -> JsonObject:
    return {
        "media_id": each.media_id,
        "media_type": each.content_type,
        "media_length": each.size,
        "upload_name": each.file_name,
        "created_ts": each.created_ms,
        "last_access_ts": None,
        "quarantined_by": each.quarantined_by,
        "safe_from_quarantine": each.is_protected,
    }
