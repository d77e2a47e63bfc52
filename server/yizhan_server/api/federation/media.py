"""Files of this server's users, for other servers.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

import secrets

from aiohttp import web

from yizhan_server.api.federation import make_routes
from yizhan_server.api.file_answer import OnDisk, open_part, send_part
from yizhan_server.api.media import chosen_variant, wait_of
from yizhan_server.api.routing import Call, Reply
from yizhan_server.media.disposition import disposition
from yizhan_server.media.repository import Media
from yizhan_server.media.thumbnails import Thumbnail
from yizhan_server.protocol.errors import NotFound

routes = make_routes()


@routes.get("/v1/media/download/{media_id}")
async def download(call: Call[None]) -> Reply:
    """Send a file."""
    media = await _find(call)
    return await _answer(call, media, disposition(media.content_type, media.file_name))


@routes.get("/v1/media/thumbnail/{media_id}")
async def thumbnail(call: Call[None]) -> Reply:
    """Send a small version of a picture."""
    variant = chosen_variant(call)
    made = await call.services.thumbnails.get(await _find(call), variant)
    name = f"thumbnail.{made.path.suffix[1:]}"
    return await _answer(call, made, disposition(made.content_type, name))


async def _find(call: Call[None]) -> Media:
    return await call.services.media.get(
        call.services.server_name, call.path["media_id"], wait_of(call)
    )


async def _answer(call: Call[None], file: Media | Thumbnail, disposed: str) -> Reply:
    """Send a file as the second of two parts, after its (empty) metadata."""
    request = call.request
    on_disk: OnDisk = call.services.media.on_disk
    try:
        opened = await on_disk(open_part, file.path, None)
    except FileNotFoundError:
        raise NotFound("The file is gone") from None
    try:
        boundary = secrets.token_hex(16)
        before = (
            f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n"
            f"Content-Type: {file.content_type}\r\nContent-Disposition: {disposed}\r\n\r\n"
        ).encode()
        after = f"\r\n--{boundary}--\r\n".encode()
        response = web.StreamResponse(
            headers={"Content-Type": f"multipart/mixed; boundary={boundary}"}
        )
        response.content_length = len(before) + opened.size + len(after)
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(before)
            await send_part(response, opened, 0, opened.size, on_disk)
            await response.write(after)
        await response.write_eof()
        return Reply(stream=response)
    finally:
        await on_disk(opened.close)
