"""Previews of linked pages, and the addresses that are never fetched."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web
from PIL import Image

from yizhan_server.media.page_head import decode_page, read_head
from yizhan_testing.homeserver import JsonObject, Person, homeserver_in_process

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect

PAGE = """<!DOCTYPE html><html><head>
<title>后备 标题</title>
<meta property="og:title" content="关于&amp;放假的通知">
<meta name="description" content="国庆
  放假安排">
<meta property="og:image" content="/logo.png">
<script>alert("<meta property='og:title' content='no'>")</script>
</head><body><title>no</title></body></html>"""


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), "red").save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Site:
    """A web site on this machine."""

    base: str = ""
    pages: dict[str, web.Response] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def puts(self, path: str, body: bytes | str, kind: str = "text/html; charset=utf-8") -> str:
        data = body.encode() if isinstance(body, str) else body
        self.pages[path] = web.Response(body=data, headers={"Content-Type": kind})
        return self.base + path

    def moves(self, path: str, target: str) -> str:
        self.pages[path] = web.Response(status=302, headers={"Location": target})
        return self.base + path

    async def answers(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        return web.Response(body=page.body, status=page.status, headers=page.headers)


@asynccontextmanager
async def site_running() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site.answers))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        site.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield site
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with site_running() as site:
        yield site


@pytest_asyncio.fixture
async def alice(tmp_path: Path, dialect: Dialect, site: Site) -> AsyncIterator[Person]:
    settings: dict[str, Any] = {
        "url_previews.enabled": True,
        "url_previews.deny": ["*.forbidden.example"],
        "url_previews.max_image_bytes": 10_000,
        "outbound.allow": [site.base.removeprefix("http://")],
    }
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        yield await homeserver.person("alice")


async def preview(person: Person, url: str) -> JsonObject:
    return await person.get(f"/v1/media/preview_url?url={quote(url, safe='')}")


async def test_a_page_has_title_description_and_picture(alice: Person, site: Site) -> None:
    site.puts("/logo.png", png(), "application/octet-stream")
    url = site.puts("/notice", PAGE)

    shown = await preview(alice, url)
    uri = shown.pop("og:image")
    assert shown == {
        "og:title": "关于&放假的通知",
        "og:description": "国庆 放假安排",
        "og:image:type": "image/png",
        "og:image:width": 48,
        "og:image:height": 32,
        "matrix:image:size": len(png()),
    }
    media = f"{alice.base_url}/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
    async with alice.http.get(media, headers={"Authorization": f"Bearer {alice.token}"}) as got:
        assert await got.read() == png()

    # Known for a while; the older endpoint answers alike.
    old = await alice.get(f"/_matrix/media/v3/preview_url?url={quote(url, safe='')}")
    assert old["og:image"] == uri
    assert site.asked == ["/notice", "/logo.png"]


async def test_a_picture_is_its_own_preview_and_a_false_one_is_none(
    alice: Person, site: Site
) -> None:
    shown = await preview(alice, site.puts("/a.png", png(), "image/png"))
    assert (shown["og:image:width"], shown["og:url"]) == (48, site.base + "/a.png")
    head = '<meta property="og:title" content="t"><meta property="og:image" content="/x">'
    for body in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", png() + bytes(20_000)):
        site.puts("/x", body, "image/png")
        url = site.puts(f"/page{len(body)}", head)
        assert await preview(alice, url) == {"og:title": "t"}


async def test_redirects_are_followed_three_times_and_checked(alice: Person, site: Site) -> None:
    site.puts("/end", "<title>到了</title>")
    for step, target in (("/1", "/end"), ("/2", "/1"), ("/3", "/2"), ("/4", "/3")):
        site.moves(step, target)
    assert (await preview(alice, site.base + "/3"))["og:title"] == "到了"
    assert await preview(alice, site.base + "/4") == {}
    for number, target in enumerate(
        ("http://127.0.0.1:1/", "http://169.254.169.254/latest", "file:///etc/passwd",
         "https://x.forbidden.example/", "https://[::1]/", "//", "http://user@127.0.0.1/")
    ):  # fmt: skip
        assert await preview(alice, site.moves(f"/away{number}", target)) == {}, target


async def test_other_addresses_are_refused(alice: Person) -> None:
    for url in (
        "http://127.0.0.1:1/", "https://127.0.0.1/", "https://10.0.0.1/", "https://[::1]/",
        "file:///etc/passwd", "ftp://example.org/", "https://a.forbidden.example/", "not a url",
        "https://user:secret@example.org/", "http://example.org/", "//",
    ):  # fmt: skip
        refused = await alice.refused("GET", f"/v1/media/preview_url?url={quote(url, safe='')}")
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), url
    # Looks like a name; that it is an address shows only when it is connected to.
    assert await preview(alice, "https://0x7f000001/") == {}
    long = "https://example.org/" + "x" * 3000
    assert (await alice.refused("GET", f"/v1/media/preview_url?url={long}")).status == 400


async def test_failures_and_other_files_have_an_empty_preview(alice: Person, site: Site) -> None:
    assert await preview(alice, site.base + "/missing") == {}
    assert await preview(alice, site.puts("/a.pdf", b"%PDF", "application/pdf")) == {}
    long = site.puts("/long", "<title>长</title>" + "<p>" * 1_000_000)
    assert await preview(alice, long) == {"og:title": "长"}
    assert (await alice.refused("GET", "/v1/media/preview_url")).errcode == "M_MISSING_PARAM"


async def test_nothing_is_fetched_unless_it_is_switched_on(
    tmp_path: Path, dialect: Dialect, site: Site
) -> None:
    allowed: dict[str, Any] = {"outbound.allow": [site.base.removeprefix("http://")]}
    async with homeserver_in_process(tmp_path, dialect, **allowed) as homeserver:
        bob = await homeserver.person("bob")
        url = quote(site.puts("/", "<title>x</title>"), safe="")
        refused = await bob.refused("GET", f"/v1/media/preview_url?url={url}")
        assert (refused.status, refused.errcode) == (404, "M_UNRECOGNIZED")
        assert site.asked == []


@pytest.mark.parametrize(
    ("body", "header", "text"),
    [
        ("<title>通知</title>".encode("gbk"), "text/html; charset=gb2312", "通知"),
        ('<meta charset="GBK"><title>喆</title>'.encode("gb18030"), "text/html", "喆"),
        ("\ufeff<title>通知</title>".encode(), "text/html; charset=gbk", "通知"),
        ("<title>通知</title>".encode(), "text/html; charset=none", "通知"),
        ("<title>通知</title>".encode("utf-16"), "text/html", "通知"),
        (b"<title>caf\xe9</title>", "text/html; charset=iso-8859-1", "café"),
        (b"<title>\xff\xfe</title>", "text/html", "\ufffd\ufffd"),
        (b"<title>a</title>", "text/html; charset=base64", "a"),
    ],
)
def test_pages_are_read_in_their_own_encoding(body: bytes, header: str, text: str) -> None:
    assert read_head(decode_page(body, header)).get("og:title", "") == text


def test_texts_of_strangers_are_bounded() -> None:
    page = "<title>" + "长\u202e" * 100_000 + "</title>"
    assert read_head(page)["og:title"] == "长" * 1000
    assert read_head("<" * 10_000 + "<title x='" + "&" * 10_000) == {}


async def test_pages_that_never_end_take_no_time(alice: Person, site: Site) -> None:
    begun = time.perf_counter()
    texts = ("<a ", "<a/", '<a a="', "<meta a=", "<!--", "<?", "a<", "<![<")
    for number, text in enumerate(texts):
        page = "<title>通知</title>" + text * (400_000 // len(text))
        assert (await preview(alice, site.puts(f"/{number}", page)))["og:title"] == "通知"
        read_head("<title>" + text * (400_000 // len(text)))
    assert time.perf_counter() - begun < 10
