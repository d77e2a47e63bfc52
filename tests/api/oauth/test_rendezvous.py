"""The place where two devices meet to sign one of them in by a QR code."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import ClientResponse

from yizhan_testing.account_server import AccountServer

PATH = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
TEXT = {"Content-Type": "text/plain"}


async def calls(
    server: AccountServer, method: str, path: str, data: bytes | None = None, **headers: str
) -> ClientResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await server.http.request(
        method, server.url + path, data=data, headers=(TEXT if data is not None else {}) | named
    )
    await response.read()
    return response


async def opens(server: AccountServer, data: bytes = b"one") -> tuple[str, str]:
    created = await calls(server, "POST", PATH, data)
    assert created.status == 201
    return urlsplit((await created.json())["url"]).path, created.headers["ETag"]


async def test_two_devices_write_in_turn(server: AccountServer) -> None:
    versions = (await server.call("GET", "/versions")).json
    assert versions["unstable_features"]["org.matrix.msc4108"] is True
    place, first = await opens(server)

    read = await calls(server, "GET", place)
    assert (read.status, await read.read(), read.headers["ETag"]) == (200, b"one", first)
    assert read.headers["Content-Type"] == "text/plain"
    assert (await calls(server, "GET", place, If_None_Match=first)).status == 304
    written = await calls(server, "PUT", place, b"two", If_Match=first)
    assert written.status == 202
    again = await calls(server, "GET", place, If_None_Match=first)
    assert (again.status, await again.read()) == (200, b"two")
    late = await calls(server, "PUT", place, b"three", If_Match=first)
    assert late.status == 412
    assert (await late.json())["org.matrix.msc4108.errcode"] == "M_CONCURRENT_WRITE"

    assert (await calls(server, "DELETE", place)).status == 204
    assert (await calls(server, "GET", place)).status == 404


async def test_a_place_is_small_and_short_lived(server: AccountServer) -> None:
    place, etag = await opens(server)
    assert (await calls(server, "PUT", place, b"x" * 4097, If_Match=etag)).status == 413
    assert (await calls(server, "POST", PATH, b"x" * 4097)).status == 413
    assert (await calls(server, "PUT", place, b"x")).status == 400
    html = await calls(server, "POST", PATH, b"<script>", Content_Type="text/html")
    assert html.status == 400

    server.clock.pass_seconds(119)
    assert (await calls(server, "PUT", place, b"x", If_Match=etag)).status == 202
    server.clock.pass_seconds(119)
    assert (await calls(server, "GET", place)).status == 200
    server.clock.pass_seconds(1)
    assert (await calls(server, "GET", place)).status == 404


async def test_the_oldest_place_makes_room(server: AccountServer) -> None:
    oldest, _ = await opens(server)
    for _ in range(1000):
        server.services.rendezvous.create(b"")

    assert (await calls(server, "GET", oldest)).status == 404


async def test_a_browser_may_meet_there(server: AccountServer) -> None:
    place, _ = await opens(server)

    asked = await calls(server, "OPTIONS", place)
    read = await calls(server, "GET", place)

    assert "If-Match" in asked.headers["Access-Control-Allow-Headers"]
    assert "ETag" in read.headers["Access-Control-Expose-Headers"]
    assert read.headers["Access-Control-Allow-Origin"] == "*"
