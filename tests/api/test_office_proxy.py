"""The pages of the bots, reached through the homeserver."""

from __future__ import annotations

import gzip
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import ClientConnectionError, ClientSession, web
from aiohttp.test_utils import RawTestServer, TestServer
from pytest_aiohttp.plugin import AiohttpRawServer, AiohttpServer
from yarl import URL

from yizhan_server.office_proxy import MAX_BODY, OfficeProxy, office_session

Ask = Callable[..., Awaitable[tuple[int, bytes, "dict[str, str]"]]]


async def _pages(request: web.Request) -> web.Response:
    if request.path == "/office/echo":
        return web.Response(body=await request.read(), headers={"X-Path": request.raw_path})
    if request.path == "/office/packed":
        packed = gzip.compress("表单".encode())
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})
    if request.path == "/office/who":
        return web.json_response(dict(request.headers))
    return web.Response(text=f"inside: {request.path}")


@pytest.fixture
async def ask(
    aiohttp_server: AiohttpServer, aiohttp_raw_server: AiohttpRawServer
) -> AsyncIterator[Ask]:
    app = web.Application(client_max_size=4 * MAX_BODY)
    app.router.add_route("*", "/{path:.*}", _pages)
    upstream: TestServer = await aiohttp_server(app)
    session = office_session()
    proxy = OfficeProxy(f"http://{upstream.host}:{upstream.port}", session)
    front: RawTestServer = await aiohttp_raw_server(proxy)

    async def ask(method: str, path: str, **more: object) -> tuple[int, bytes, dict[str, str]]:
        url = URL(f"http://{front.host}:{front.port}{path}", encoded=True)
        async with (
            ClientSession() as http,
            http.request(method, url, **more) as answer,  # type: ignore[arg-type]
        ):
            return answer.status, await answer.read(), dict(answer.headers)

    async with session:
        yield ask


async def test_a_large_body_arrives_whole(ask: Ask) -> None:
    body = bytes(range(256)) * (MAX_BODY // 256)
    status, echoed, headers = await ask("POST", "/office/echo?id=%2F7", data=io.BytesIO(body))
    assert status == 200
    assert echoed == body
    assert headers["X-Path"] == "/office/echo?id=%2F7"


async def test_a_body_beyond_the_limit_is_refused(ask: Ask) -> None:
    try:
        status, _, _ = await ask("POST", "/office/echo", data=io.BytesIO(b"x" * (MAX_BODY + 1)))
    except ClientConnectionError:
        # The answer was given and the connection closed while the body was still on its way.
        return
    assert status == 413


async def test_a_compressed_page_is_still_a_page(ask: Ask) -> None:
    _, page, _ = await ask("GET", "/office/packed")
    assert page.decode() == "表单"


async def test_nobody_names_another_address_as_the_client(ask: Ask) -> None:
    _, headers, _ = await ask("GET", "/office/who", headers={"X-Forwarded-For": "9.9.9.9"})
    assert b"9.9.9.9" not in headers
    assert b"127.0.0.1" in headers


@pytest.mark.parametrize(
    "path", ["/office/../secret", "/office/%2e%2e/secret", "/office/a/..%2f..", "/other/page"]
)
async def test_no_path_leads_out_of_the_office(ask: Ask, path: str) -> None:
    status, body, _ = await ask("GET", path)
    # An encoded slash stays inside one segment, and so inside the prefix.
    assert status == 404 or body.startswith(b"inside: /office/")
    assert b"inside: /secret" not in body
    assert b"inside: /other" not in body
