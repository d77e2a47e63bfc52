"""Media: uploads, downloads, thumbnails.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from aiohttp.web import RequestPayloadError

from yizhan_server.api.file_answer import answer_with_file
from yizhan_server.api.routing import CORS_HEADERS, Auth, Call, JsonObject, Reply, Routes
from yizhan_server.media.disposition import disposition
from yizhan_server.media.repository import Media, clean_file_name
from yizhan_server.media.thumbnails import Method, Variant, choose_variant
from yizhan_server.protocol.errors import MatrixError, MissingParam, NotFound, TooLarge

routes = Routes("/_matrix")

DEFAULT_WAIT_MS = 20_000
MAX_WAIT_MS = 60_000

STALLED_SECONDS = 60
"""An upload that sends nothing for so long is given up; a slow one may take its time."""

FILE_HEADERS = {
    **CORS_HEADERS,
    "Access-Control-Expose-Headers": "Content-Disposition, Content-Range, ETag, Retry-After",
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf;"
        " style-src 'unsafe-inline'; object-src 'self';"
    ),
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow, noarchive, noimageindex",
    "Referrer-Policy": "no-referrer",
    # An id never names other bytes. Not for longer than a day, so that a deletion is felt.
    "Cache-Control": "private, max-age=86400, immutable",
}


@routes.post("/media/v3/upload", raw_body=True, limit="media", also=("/media/v1/upload",))
async def upload(call: Call[None]) -> JsonObject:
    """Store a file."""
    check_may_upload(call)
    media = call.services.media
    uri = await media.upload(
        call.requester.user_id,
        body_of(call, media.max_upload_bytes),
        content_type=call.request.headers.get("Content-Type"),
        file_name=call.query("filename"),
    )
    return {"content_uri": uri}


@routes.post("/media/v1/create", body=dict, limit="media")
async def create(call: Call[JsonObject]) -> JsonObject:
    """Hand out an id to upload to later."""
    check_may_upload(call)
    uri, expires_ms = await call.services.media.reserve(call.requester.user_id)
    return {"content_uri": uri, "unused_expires_at": expires_ms}


@routes.put("/media/v3/upload/{server_name}/{media_id}", raw_body=True, limit="media")
async def upload_to(call: Call[None]) -> JsonObject:
    """Store a file under an id that was handed out before."""
    check_may_upload(call)
    media = call.services.media
    await media.fill(
        call.requester.user_id,
        call.path["server_name"],
        call.path["media_id"],
        body_of(call, media.max_upload_bytes),
        content_type=call.request.headers.get("Content-Type"),
        file_name=call.query("filename"),
    )
    return {}


@routes.get("/client/v1/media/config", also=("/media/v3/config", "/media/v1/config"))
async def config(call: Call[None]) -> JsonObject:
    """Say how large a file may be."""
    return {"m.upload.size": call.services.media.max_upload_bytes}


@routes.get("/client/v1/media/download/{server_name}/{media_id}")
async def download(call: Call[None]) -> Reply:
    """Send a file."""
    return await answer_with_media(call)


@routes.get("/client/v1/media/download/{server_name}/{media_id}/{file_name}")
async def download_as(call: Call[None]) -> Reply:
    """Send a file under a name of the caller's choice."""
    return await answer_with_media(call)


@routes.get("/client/v1/media/thumbnail/{server_name}/{media_id}")
async def thumbnail(call: Call[None]) -> Reply:
    """Send a small version of a picture."""
    return await answer_with_thumbnail(call)


@routes.get(
    "/media/v3/download/{server_name}/{media_id}",
    auth=Auth.NONE,
    also=("/media/v1/download/{server_name}/{media_id}",),
)
async def download_unauthenticated(call: Call[None]) -> Reply:
    """Send a file to anybody, where the configuration says so."""
    check_unauthenticated(call)
    return await answer_with_media(call)


@routes.get(
    "/media/v3/download/{server_name}/{media_id}/{file_name}",
    auth=Auth.NONE,
    also=("/media/v1/download/{server_name}/{media_id}/{file_name}",),
)
async def download_unauthenticated_as(call: Call[None]) -> Reply:
    """Send a file under a name of the caller's choice, to anybody."""
    check_unauthenticated(call)
    return await answer_with_media(call)


@routes.get(
    "/client/v1/media/preview_url", limit="media",
    also=("/media/v3/preview_url",),
)  # fmt: skip
async def preview_url(call: Call[None]) -> bytes:
    """Tell what a page is about."""
    call.query_int("ts", 0)
    return await call.services.url_previews.get(call.query_required("url"))


@routes.get(
    "/media/v3/thumbnail/{server_name}/{media_id}",
    auth=Auth.NONE,
    also=("/media/v1/thumbnail/{server_name}/{media_id}",),
)
async def thumbnail_unauthenticated(call: Call[None]) -> Reply:
    """Send a small version of a picture to anybody, where the configuration says so."""
    check_unauthenticated(call)
    return await answer_with_thumbnail(call)


def check_may_upload(call: Call[None] | Call[JsonObject]) -> None:
    """Guests read only."""
    if call.requester.is_guest:
        raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests cannot upload files")


def check_unauthenticated(call: Call[None]) -> None:
    """Answer M_NOT_FOUND unless media may be read without an account."""
    if not call.services.media.is_public:
        raise NotFound("Media is served on the authenticated endpoints only")


async def body_of(call: Call[None], most: int) -> AsyncIterator[bytes]:
    """Yield the request's body as it arrives; what is declared too large is not even asked for."""
    request = call.request
    if request.content_length is not None and request.content_length > most:
        raise TooLarge(f"Files may have at most {most} bytes")
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        while True:
            async with asyncio.timeout(STALLED_SECONDS):
                piece = await request.content.readany()
            if not piece:
                return
            yield piece
    except TimeoutError:
        raise MatrixError(408, "M_UNKNOWN", "The upload has stalled") from None
    except RequestPayloadError:
        raise MatrixError(400, "M_UNKNOWN", "The body is broken off or badly encoded") from None


async def find_media(call: Call[None]) -> Media:
    """Return what the path names, waiting for it as long as the caller wants to.

    The files of other servers are fetched unless `allow_remote` says not to.
    """
    server, media_id = call.path["server_name"], call.path["media_id"]
    is_remote_allowed = call.query_bool("allow_remote", default=True)
    if server == call.services.server_name or not is_remote_allowed:
        return await call.services.media.get(server, media_id, wait_of(call))
    return await call.services.remote_media.get(
        server, media_id, wait_of(call), call.ask_another_server
    )


def wait_of(call: Call[None]) -> int:
    """Return how long the caller wants to wait for an upload, in milliseconds."""
    return min(call.query_int("timeout_ms", DEFAULT_WAIT_MS), MAX_WAIT_MS)


async def answer_with_media(call: Call[None]) -> Reply:
    """Send the file that the path names."""
    media = await find_media(call)
    name = clean_file_name(call.path.get("file_name")) or media.file_name
    return await answer_with_file(
        call.request,
        media.path,
        tag=media.digest.hex(),
        headers={
            **FILE_HEADERS,
            "Content-Type": media.content_type,
            "Content-Disposition": disposition(media.content_type, name),
        },
        on_disk=call.services.media.on_disk,
    )


async def answer_with_thumbnail(call: Call[None]) -> Reply:
    """Send a thumbnail of the picture that the path names."""
    variant = chosen_variant(call)
    made = await call.services.thumbnails.get(await find_media(call), variant)
    name = f"thumbnail.{made.path.suffix[1:]}"
    return await answer_with_file(
        call.request,
        made.path,
        tag=made.tag,
        headers={
            **FILE_HEADERS,
            "Content-Type": made.content_type,
            "Content-Disposition": disposition(made.content_type, name),
        },
        on_disk=call.services.media.on_disk,
    )


def chosen_variant(call: Call[None]) -> Variant:
    """Return the thumbnail that the query describes, or answer what is wrong with it."""
    for name in ("width", "height"):
        if call.query(name) is None:
            raise MissingParam(f"Missing query parameter '{name}'")
    return choose_variant(
        call.query_int("width", 0, low=1),
        call.query_int("height", 0, low=1),
        cast("Method", call.query_choice("method", ("crop", "scale"), "scale")),
        animated=call.query_bool("animated"),
    )
