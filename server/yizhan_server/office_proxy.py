"""Forwards `/office/` to the bots' pages, when the homeserver itself serves TLS.

Behind a reverse proxy this is the proxy's business. Only this prefix is forwarded, and only to the
configured address.
"""

from __future__ import annotations

import aiohttp
from aiohttp import web

PREFIX = "/office/"
MAX_BODY = 1 << 20
TIMEOUT_S = 30

_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade", "host", "content-length", "x-forwarded-for")
)  # fmt: skip


class OfficeProxy:
    """Passes requests on and streams the answers back."""

    def __init__(self, upstream_url: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream_url
        self._session = session

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward one request."""
        if (request.content_length or 0) > MAX_BODY:
            return web.Response(status=413)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _HOP_BY_HOP
        }
        headers["X-Forwarded-For"] = request.remote or ""
        headers["X-Forwarded-Proto"] = "https"
        body = await request.content.read(MAX_BODY + 1) if request.can_read_body else None
        if body is not None and len(body) > MAX_BODY:
            return web.Response(status=413)
        try:
            async with self._session.request(
                request.method, self._upstream + request.raw_path, headers=headers, data=body,
                allow_redirects=False, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as upstream:  # fmt: skip
                response = web.StreamResponse(
                    status=upstream.status,
                    headers={
                        name: value
                        for name, value in upstream.headers.items()
                        if name.lower() not in _HOP_BY_HOP
                    },
                )
                await response.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(
                status=502, text="驿站的办公页面暂时不可用。 | The office pages are down."
            )
