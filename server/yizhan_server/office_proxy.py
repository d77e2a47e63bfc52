"""Forwards `/office/` to the bots' pages, when the homeserver itself serves TLS.

Behind a reverse proxy this is the proxy's business. Only this prefix is forwarded, and only to the
configured address.
"""

from __future__ import annotations

from urllib.parse import unquote

import aiohttp
from aiohttp import web
from yarl import URL

from yizhan_server.api.routing import read_body
from yizhan_server.protocol.errors import TooLarge

PREFIX = "/office/"
MAX_BODY = 1 << 20
TIMEOUT_S = 30
UNAVAILABLE = "驿站的办公页面暂时不可用。\nThe office pages are not available at the moment.\n"

_NOT_FORWARDED = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade", "host", "content-length", "x-forwarded-for",
     "x-forwarded-proto")
)  # fmt: skip


def office_session() -> aiohttp.ClientSession:
    """Return the session for a proxy: bodies pass through as they are, compressed or not."""
    return aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())


class OfficeProxy:
    """Passes requests on and streams the answers back."""

    def __init__(self, upstream_url: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream_url
        self._session = session

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward one request."""
        path = request.raw_path
        if not path.startswith(PREFIX) or _climbs(path):
            return web.Response(status=404)
        try:
            body = await read_body(request, MAX_BODY)
        except TooLarge:
            return web.Response(status=413)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _NOT_FORWARDED
        }
        headers["X-Forwarded-For"] = request.remote or ""
        headers["X-Forwarded-Proto"] = "https"
        try:
            async with self._session.request(
                request.method, URL(self._upstream + path, encoded=True), headers=headers,
                data=body or None, allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as upstream:  # fmt: skip
                response = web.StreamResponse(status=upstream.status)
                for name, value in upstream.headers.items():
                    if name.lower() not in _NOT_FORWARDED:
                        response.headers.add(name, value)
                await response.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientConnectionError, TimeoutError):
            return web.Response(status=502, text=UNAVAILABLE)


def _climbs(path: str) -> bool:
    """Whether the path leads out of the prefix, spelt in whatever way."""
    return not {".", ".."}.isdisjoint(unquote(path.partition("?")[0]).split("/"))
