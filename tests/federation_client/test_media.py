"""Files come from the server that has them: in two parts, from elsewhere, or the old way."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import MultipartWriter, web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yizhan_server.federation_client.errors import RemoteMisbehaved, RemoteRefused
from yizhan_server.federation_client.media import RemoteTooLarge, Scale
from yizhan_server.federation_client.multipart import MalformedMultipart, TwoParts
from yizhan_server.protocol.identifiers import ServerName
from yizhan_testing.remote_servers import Network, RemoteServer

A = ServerName("a.test:7200")
DOWNLOAD = "/_matrix/federation/v1/media/download/abc%2F1"
OLD = "/_matrix/media/v3/download/a.test%3A7200/abc%2F1"


async def fetch(network: Network, max_bytes: int = 10_000_000) -> tuple[Any, Any, bytes]:
    async with network.client.media.download(A, "abc/1", max_bytes=max_bytes) as file:
        pieces = [piece async for piece in file.pieces]
        return file.content_type, file.content_disposition, b"".join(pieces)


def answers_parts(there: RemoteServer, *parts: tuple[bytes, dict[str, str]]) -> None:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        with MultipartWriter("mixed") as writer:
            for content, headers in parts:
                # aiohttp, which is not ours, decides on boundary and layout.
                writer.append(content, headers)
        return web.Response(body=writer)

    there.handles("GET", DOWNLOAD, handler)


def raw(
    there: RemoteServer, body: bytes, content_type: str = "multipart/mixed; boundary=b"
) -> None:
    there.answers("GET", DOWNLOAD, body, headers={"Content-Type": content_type})


@pytest.mark.parametrize("size", [0, 1, 65_535, 900_000])
async def test_a_file_arrives_with_its_type_and_name(network: Network, size: int) -> None:
    there = await network.serves("a.test", port=7200)
    content = (b"\r\n--almost\r\n" * (size // 12 + 1))[:size]
    headers = {"Content-Type": "image/png", "Content-Disposition": "inline; filename=a.png"}
    answers_parts(there, (b"{}", {"Content-Type": "application/json"}), (content, headers))

    assert await fetch(network) == ("image/png", "inline; filename=a.png", content)
    assert there.requests == [f"GET {DOWNLOAD}?timeout_ms=20000"]
    assert there.seen[0].authorization.startswith("X-Matrix origin=")


async def test_a_thumbnail_is_asked_for_by_size_method_and_movement(network: Network) -> None:
    there = await network.serves("a.test", port=7200)
    path = "/_matrix/federation/v1/media/thumbnail/abc"
    body = b"--b\r\n\r\n{}\r\n--b\r\nContent-Type: image/webp\r\n\r\nxyz\r\n--b--"
    there.answers("GET", path, body, headers={"Content-Type": 'multipart/mixed; boundary="b"'})

    scale = Scale(64, 48, "crop", animated=False)
    async with network.client.media.thumbnail(A, "abc", scale, max_bytes=3) as file:
        assert [piece async for piece in file.pieces] == [b"xyz"]
    query = "width=64&height=48&method=crop&timeout_ms=20000&animated=false"
    assert there.requests == [f"GET {path}?{query}"]


async def test_a_file_may_be_elsewhere(network: Network) -> None:
    there = await network.serves("a.test", port=7200)
    store = await network.serves("store.test", port=7200)
    store.answers(
        "GET", "/first", b"", status=307, headers={"Location": "https://store.test:7200/x"}
    )
    store.answers("GET", "/x", b"bytes", headers={"Content-Type": "image/gif"})
    location = {"Location": "https://store.test:7200/first"}
    answers_parts(there, (b"{}", {"Content-Type": "application/json"}), (b"", location))

    assert await fetch(network) == ("image/gif", None, b"bytes")
    assert [seen.authorization for seen in store.seen] == ["", ""]


@pytest.mark.parametrize(
    "location",
    [
        "http://store.test:7200/x",
        "/x",
        "https://[/",
        "file:///etc/passwd",
        "https://store.test:7200/missing",
        "https://store.test:7200/loop",
    ],
)
async def test_a_place_that_is_none_is_refused(network: Network, location: str) -> None:
    there = await network.serves("a.test", port=7200)
    store = await network.serves("store.test", port=7200)
    loop = {"Location": "https://store.test:7200/loop"}
    store.answers("GET", "/loop", b"", status=302, headers=loop)
    json_part = (b"{}", {"Content-Type": "application/json"})
    answers_parts(there, json_part, (b"", {"Location": location}))

    with pytest.raises(RemoteMisbehaved):
        await fetch(network)
    assert len(store.seen) <= 4


async def test_a_server_that_does_not_know_signed_downloads_is_asked_the_old_way(
    network: Network,
) -> None:
    there = await network.serves("a.test", port=7200)
    there.answers("GET", OLD, b"old", headers={"Content-Type": "text/plain"})

    assert await fetch(network) == ("text/plain", None, b"old")
    assert there.requests[1] == f"GET {OLD}?timeout_ms=20000&allow_remote=false"
    assert there.seen[1].authorization == ""


async def test_a_file_that_is_not_there_is_not_asked_for_again(network: Network) -> None:
    there = await network.serves("a.test", port=7200)
    error = {"errcode": "M_NOT_FOUND", "error": "no"}
    there.answers("GET", DOWNLOAD, error, status=404)
    with pytest.raises(RemoteRefused, match="M_NOT_FOUND"):
        await fetch(network)
    assert len(there.seen) == 1


async def test_a_file_larger_than_we_want_is_cut_off(network: Network) -> None:
    there = await network.serves("a.test", port=7200)
    json_part = (b"{}", {"Content-Type": "application/json"})
    answers_parts(there, json_part, (b"x" * 1001, {"Content-Type": "image/png"}))

    with pytest.raises(RemoteTooLarge):
        await fetch(network, max_bytes=1000)
    assert len((await fetch(network, max_bytes=1001))[2]) == 1001


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nxyz\r\n--b--", "application/octet-stream"),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nxyz\r\n--b--", "multipart/mixed"),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nxyz\r\n--b--", f"multipart/mixed; boundary={'b' * 71}"),
        (b"", "multipart/mixed; boundary=b"),
        (b"--b--", "multipart/mixed; boundary=b"),
        (b"--b\r\n\r\n{}\r\n--b--", "multipart/mixed; boundary=b"),
        (b"--b\r\n\r\n[]\r\n--b\r\n\r\nxyz\r\n--b--", "multipart/mixed; boundary=b"),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nxyz", "multipart/mixed; boundary=b"),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nxyz\r\n--b", "multipart/mixed; boundary=b"),
        (b"--b\r\n\r\n{}\r\n--b\r\nxyz\r\n--b--", "multipart/mixed; boundary=b"),
        (b"--b\r\nno header\r\n\r\n{}\r\n--b\r\n\r\nx\r\n--b--", "multipart/mixed; boundary=b"),
        (b"--b\r\n\r\n{}\r\n--b\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--", "multipart/mixed; boundary=b"),
        (b"--b\r\n\r\n" + b" " * 70_000 + b"{}\r\n--b\r\n\r\n", "multipart/mixed; boundary=b"),
        (b"x" * 70_000, "multipart/mixed; boundary=b"),
    ],
)
async def test_an_answer_that_is_not_two_parts_is_no_file(
    network: Network, body: bytes, content_type: str
) -> None:
    there = await network.serves("a.test", port=7200)
    raw(there, body, content_type)
    with pytest.raises(RemoteMisbehaved):
        await fetch(network)


async def test_what_goes_wrong_on_our_side_is_not_blamed_on_the_server(network: Network) -> None:
    there = await network.serves("a.test", port=7200)
    raw(there, b"--b\r\n\r\n{}\r\n--b\r\n\r\nxyz\r\n--b--")
    with pytest.raises(OSError, match="disk full"):
        async with network.client.media.download(A, "abc/1", max_bytes=10):
            raise OSError("disk full")
    assert network.client.destinations.failing_since_ms(A) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(st.sampled_from([b"\r", b"\n", b"-", b"b", b"\r\n--", b"x" * 99])).map(
        b"".join
    ),
    cuts=st.lists(st.integers(1, 40), min_size=1),
)
async def test_a_file_is_the_same_however_it_is_cut_into_pieces(
    content: bytes, cuts: list[int]
) -> None:
    if b"\r\n--b" in b"\r\n" + content:
        content = content.replace(b"b", b"c")
    body = b"--b\r\nA: 1\r\n\r\n{}\r\n--b\r\n\r\n" + content + b"\r\n--b--\r\n"

    async def pieces() -> Any:
        rest = body
        while rest:
            for cut in cuts:
                if rest:
                    yield rest[:cut]
                rest = rest[cut:]

    parts = TwoParts(b"b", pieces())
    assert await parts.read_json() == b"{}"
    assert await parts.read_file_headers() == {}
    assert b"".join([piece async for piece in parts.read_file()]) == content


@given(st.binary(max_size=200) | st.lists(st.sampled_from(
    [b"--b", b"\r\n", b"--", b"{}", b"A: b", b"x"]), max_size=20).map(b"".join))  # fmt: skip
async def test_no_bytes_break_the_reader(body: bytes) -> None:
    async def pieces() -> Any:
        yield body

    parts = TwoParts(b"b", pieces())
    try:
        await parts.read_json()
        await parts.read_file_headers()
        async for _ in parts.read_file():
            pass
    except MalformedMultipart:
        pass
