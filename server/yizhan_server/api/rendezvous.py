"""Where two devices meet to sign one of them in by a QR code. Spec: MSC4108."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING

from yizhan_server.api.routing import Auth, Call, Reply, Routes, read_body
from yizhan_server.oauth.rendezvous import MAX_BYTES
from yizhan_server.protocol.errors import InvalidParam, MissingParam

if TYPE_CHECKING:
    from yizhan_server.oauth.rendezvous import Left

PATH = "/unstable/org.matrix.msc4108/rendezvous"

routes = Routes()


@routes.post(PATH, auth=Auth.NONE, limit="login", raw_body=True)
async def create(call: Call[None]) -> Reply:
    """Leave a message at a new place."""
    name, left = call.services.rendezvous.create(await _message(call))
    base = call.services.auth_metadata["issuer"].rstrip("/")
    headers = _headers(left) | {"Content-Type": "application/json"}
    return Reply({"url": f"{base}/_matrix/client{PATH}/{name}"}, 201, headers)


@routes.get(PATH + "/{name}", auth=Auth.NONE)
async def read(call: Call[None]) -> Reply:
    """Read what was left, if the caller has not seen it yet."""
    left = call.services.rendezvous.find(call.path["name"])
    if call.request.headers.get("If-None-Match") == left.etag:
        return Reply(None, 304, _headers(left))
    return Reply(left.data, headers=_headers(left))


@routes.put(PATH + "/{name}", auth=Auth.NONE, raw_body=True)
async def write(call: Call[None]) -> Reply:
    """Leave another message in place of one that the caller has seen."""
    etag = call.request.headers.get("If-Match")
    if etag is None:
        raise MissingParam("The header If-Match is missing")
    left = call.services.rendezvous.replace(call.path["name"], etag, await _message(call))
    return Reply(None, 202, _headers(left))


@routes.delete(PATH + "/{name}", auth=Auth.NONE)
async def remove(call: Call[None]) -> Reply:
    """Give the place up."""
    call.services.rendezvous.remove(call.path["name"])
    return Reply(None, 204)


async def _message(call: Call[None]) -> bytes:
    if call.request.content_type != "text/plain":
        raise InvalidParam("The content type must be text/plain")
    return await read_body(call.request, MAX_BYTES)


def _headers(left: Left) -> dict[str, str]:
    return {
        # Never what a browser would show as a page of ours.
        "Content-Type": "text/plain",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "ETag": left.etag,
        "Expires": formatdate(left.expires_ms / 1000, usegmt=True),
        "Last-Modified": formatdate(left.left_ms / 1000, usegmt=True),
        "Cache-Control": "no-store",
        "Pragma": "no-cache",
        "X-Max-Bytes": str(MAX_BYTES),
    }
