"""Media as people send it to each other, and as somebody hostile would."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from aiohttp import web
from PIL import Image, ImageOps

from yizhan_database import Transaction
from yizhan_server.accounts.requester import Requester
from yizhan_server.api import media as media_api
from yizhan_server.api.client_address import ClientAddresses
from yizhan_server.api.file_answer import ByteRange, parse_range
from yizhan_server.api.limits import RateLimits
from yizhan_server.api.routing import Router, Wrapper
from yizhan_server.app import MIGRATIONS
from yizhan_server.clock import SystemClock
from yizhan_server.media import files as media_files
from yizhan_server.media.disposition import disposition
from yizhan_server.media.files import FileStore
from yizhan_server.media.repository import (
    MAX_OPEN_RESERVATIONS,
    RESERVATION_LIFETIME_MS,
    ContentRepository,
)
from yizhan_server.media.resizing import fit
from yizhan_server.media.thumbnails import choose_variant
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import DeviceID, UserID
from yizhan_server.storage import media as storage
from yizhan_testing.databases import Dialect, opened_fresh
from yizhan_testing.homeserver import HomeserverInProcess, Person, Refused, homeserver_in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

SOME_BYTES = random.Random(5).randbytes(700_000)


class Answer:
    """What a download gave."""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data

    @property
    def picture(self) -> Image.Image:
        assert self.status == 200, self.data
        return Image.open(io.BytesIO(self.data))


async def uploads(
    person: Person, data: bytes, content_type: str = "application/octet-stream", **params: str
) -> str:
    """Upload a file and return what follows `mxc://`."""
    answer = await person.call(
        "POST", "/_matrix/media/v3/upload", data=data, params=params,
        headers={"Content-Type": content_type},
    )  # fmt: skip
    uri: str = answer["content_uri"]
    assert uri.startswith("mxc://")
    return uri.removeprefix("mxc://")


async def fetches(
    person: Person,
    path: str,
    *,
    verb: str = "GET",
    token: bool = True,
    headers: Mapping[str, str] | None = None,
    **params: str,
) -> Answer:
    """Call an endpoint that answers with a file."""
    authorization = {"Authorization": f"Bearer {person.token}"} if token else {}
    async with person.http.request(
        verb, f"{person.base_url}/_matrix/{path}", params=params,
        headers={**authorization, **(headers or {})},
    ) as response:  # fmt: skip
        return Answer(response.status, response.headers, await response.read())


async def downloads(person: Person, mxc: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await fetches(person, f"client/v1/media/download/{mxc}", headers=named)


async def thumbnail(person: Person, mxc: str, width: int, height: int, **params: str) -> Answer:
    return await fetches(
        person, f"client/v1/media/thumbnail/{mxc}", width=str(width), height=str(height), **params
    )


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: every part of it can be told from the others."""
    across = Image.linear_gradient("L").rotate(90).resize((width, height))
    down = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (across, down, Image.new("L", (width, height))))


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size; its data would be just as large, were it read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(50_000_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def stored_files(homeserver: HomeserverInProcess, kind: str = "files") -> list[Path]:
    folder = homeserver.parts.services.media._store._files.parent
    return [path for path in (folder / kind).rglob("*") if path.is_file()]


async def test_a_file_comes_back_as_it_was_sent(alice: Person, bob: Person) -> None:
    mxc = await uploads(alice, SOME_BYTES, "video/mp4", filename="会议纪要.mp4")

    answer = await downloads(bob, mxc)

    assert answer.data == SOME_BYTES
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Content-Length"] == str(len(SOME_BYTES))
    assert answer.headers["Content-Disposition"] == (
        "inline; filename*=UTF-8''%E4%BC%9A%E8%AE%AE%E7%BA%AA%E8%A6%81.mp4"
    )
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none';")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "noindex" in answer.headers["X-Robots-Tag"]
    assert answer.headers["Cache-Control"].startswith("private")


async def test_an_empty_file_is_a_file(alice: Person) -> None:
    mxc = await uploads(alice, b"")

    answer = await downloads(alice, mxc)

    assert (answer.status, answer.data) == (200, b"")


async def test_the_caller_may_name_the_file(alice: Person) -> None:
    mxc = await uploads(alice, b"a,b", "text/csv", filename="a.csv")

    wanted = quote('the "list".csv')
    named = await fetches(alice, f"client/v1/media/download/{mxc}/{wanted}")
    assert named.headers["Content-Disposition"] == r'inline; filename="the \"list\".csv"'

    unnamed = await fetches(alice, f"client/v1/media/download/{mxc}/")
    assert unnamed.headers["Content-Disposition"] == 'inline; filename="a.csv"'


async def test_what_a_browser_could_run_is_never_shown_in_place(alice: Person) -> None:
    page = await downloads(alice, await uploads(alice, b"<script>", "text/html; charset=utf-8"))
    assert page.headers["Content-Disposition"] == "attachment"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"

    picture = await downloads(alice, await uploads(alice, b"<svg/>", "image/svg+xml"))
    assert picture.headers["Content-Disposition"] == "attachment"

    text = await downloads(alice, await uploads(alice, b"x", "Text/Plain;charset=utf-8"))
    assert text.headers["Content-Disposition"] == "inline"


@pytest.mark.parametrize("claimed", ["nonsense", "a/b/c", "x" * 300, "图/片"])
async def test_a_type_that_is_none_is_unknown(alice: Person, claimed: str) -> None:
    mxc = await uploads(alice, b"data", claimed)

    assert (await downloads(alice, mxc)).headers["Content-Type"] == "application/octet-stream"


async def test_names_cannot_break_headers_or_deceive(alice: Person) -> None:
    mxc = await uploads(alice, b"data", filename="a\r\nSet-Cookie: x=y\x00\u202egpj.exe")

    answer = await downloads(alice, mxc)

    assert "Set-Cookie" not in answer.headers
    assert (
        answer.headers["Content-Disposition"]
        == 'attachment; filename="a__Set-Cookie: x=y__gpj.exe"'
    )
    with pytest.raises(Refused) as refused:
        await uploads(alice, b"data", filename="n" * 1025)
    assert (refused.value.status, refused.value.errcode) == (400, "M_INVALID_PARAM")


async def test_the_same_bytes_are_stored_once(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    ids = [await uploads(person, SOME_BYTES) for person in (alice, alice, bob)]

    assert len(set(ids)) == 3
    digest = hashlib.sha256(SOME_BYTES)
    assert [path.name for path in stored_files(homeserver)] == [digest.hexdigest()]
    assert stored_files(homeserver, "incoming") == []
    row = await homeserver.parts.services.db.row(
        "SELECT size, reference_count FROM media_file WHERE digest = ?", digest.digest()
    )
    assert row == (len(SOME_BYTES), 3)
    assert [(await downloads(bob, mxc)).data == SOME_BYTES for mxc in ids] == [True] * 3


async def test_files_are_readable_by_the_owner_only(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    await uploads(alice, SOME_BYTES)

    (file,) = stored_files(homeserver)
    assert [file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777] == [0o600, 0o700]


async def test_uploads_need_an_account(homeserver: HomeserverInProcess, alice: Person) -> None:
    mxc = await uploads(alice, b"secret")
    url = homeserver.base_url + "/_matrix/"

    for method, path in (
        ("POST", "media/v3/upload"),
        ("POST", "media/v1/create"),
        ("PUT", f"media/v3/upload/{mxc}"),
        ("GET", f"client/v1/media/download/{mxc}"),
        ("GET", f"client/v1/media/thumbnail/{mxc}?width=1&height=1"),
        ("GET", "client/v1/media/config"),
    ):
        async with homeserver.http.request(method, url + path) as response:
            answer = await response.json()
            assert (response.status, answer["errcode"]) == (401, "M_MISSING_TOKEN"), path


async def test_guests_upload_nothing(homeserver: HomeserverInProcess, alice: Person) -> None:
    async def as_guest(_token: str) -> Requester:
        return Requester(UserID(alice.user_id), DeviceID("D"), 1, is_guest=True)

    wrapper = Wrapper(
        Router([media_api.routes]), homeserver.parts.services, RateLimits({}, SystemClock()),
        as_guest, ClientAddresses(()), query_string_tokens=False,
    )  # fmt: skip
    runner = web.ServerRunner(web.Server(wrapper))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        guest = Person(homeserver.http, f"http://{host}:{port}", alice.user_id, "D", "guest", "")
        for method, path in (
            ("POST", "/_matrix/media/v3/upload"),
            ("POST", "/_matrix/media/v1/create"),
            ("PUT", f"/_matrix/media/v3/upload/{homeserver.server_name}/abc"),
        ):
            refused = await guest.refused(method, path, {})
            assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
        assert await guest.get("/v1/media/config")
    finally:
        await runner.cleanup()
    assert stored_files(homeserver) == []


@pytest.mark.parametrize("known_length", [True, False])
async def test_a_file_above_the_limit_is_refused(tmp_path: Path, known_length: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(SOME_BYTES), 10_000):
            yield SOME_BYTES[start : start + 10_000]

    async with homeserver_in_process(tmp_path, **{"media.max_upload_bytes": 400_000}) as server:
        alice = await server.person("alice")
        for path in ("/_matrix/media/v3/upload", "/_matrix/media/r0/upload"):
            async with alice.http.post(
                server.base_url + path,
                data=SOME_BYTES if known_length else pieces(),
                headers={"Authorization": f"Bearer {alice.token}"},
            ) as response:
                answer = await response.json()
                assert (response.status, answer["errcode"]) == (413, "M_TOO_LARGE")
        assert stored_files(server) == stored_files(server, "incoming") == []

        assert (await downloads(alice, await uploads(alice, SOME_BYTES[:400_000]))).status == 200
        for path in ("client/v1/media/config", "media/v3/config", "media/r0/config"):
            config = await alice.get(f"/_matrix/{path}")
            assert config == {"m.upload.size": 400_000}


async def test_a_body_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(60_000_000))

    async with homeserver_in_process(tmp_path, **{"media.max_upload_bytes": 1_000_000}) as server:
        alice = await server.person("alice")
        for data, status in ((bomb, 413), (b"no gzip at all", 400)):
            with pytest.raises(Refused) as refused:
                await alice.call(
                    "POST", "/_matrix/media/v3/upload", data=data,
                    headers={"Content-Encoding": "gzip"},
                )  # fmt: skip
            assert refused.value.status == status
        assert stored_files(server) == stored_files(server, "incoming") == []


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the disk tells nobody
            await asyncio.sleep(0.01)


async def test_an_upload_that_breaks_off_leaves_nothing(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    host, port = homeserver.base_url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n"
        b"Authorization: Bearer " + alice.token.encode() + b"\r\n\r\n" + SOME_BYTES
    )
    await writer.drain()
    await _until(lambda: stored_files(homeserver, "incoming") != [])
    writer.transport.abort()

    await _until(lambda: stored_files(homeserver, "incoming") == [])
    assert stored_files(homeserver) == []


async def test_a_client_that_asks_first_is_told_to_go_on(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    host, port = homeserver.base_url.removeprefix("http://").split(":")
    head = (
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        f"Authorization: Bearer {alice.token}\r\n"
    )
    for length, answer in ((5, b"HTTP/1.1 100 "), (10**12, b"HTTP/1.1 413 ")):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(answer)
        if length == 5:
            await reader.readline()
            writer.write(b"hello")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


async def test_uploads_are_limited_in_rate(tmp_path: Path) -> None:
    overrides: dict[str, object] = {"rate_limits.enabled": True, "rate_limits.media.burst": 3}

    async with homeserver_in_process(tmp_path, **overrides) as server:
        alice, bob = await server.person("alice"), await server.person("bob")
        results = await asyncio.gather(
            *(uploads(alice, b"data") for _ in range(10)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, Refused)]
        assert 5 <= len(refused) <= 7
        assert {error.errcode for error in refused} == {"M_LIMIT_EXCEEDED"}
        await uploads(bob, b"data")


# Ids handed out before the upload.


async def creates(person: Person) -> str:
    answer = await person.post("/_matrix/media/v1/create", {})
    uri: str = answer["content_uri"]
    return uri.removeprefix("mxc://")


async def fills(person: Person, mxc: str, data: bytes, **params: str) -> None:
    await person.call(
        "PUT", f"/_matrix/media/v3/upload/{mxc}", data=data, params=params,
        headers={"Content-Type": "text/plain"},
    )  # fmt: skip


async def test_an_id_can_be_had_before_the_upload(alice: Person, bob: Person) -> None:
    mxc = await creates(alice)

    early = await fetches(bob, f"client/v1/media/download/{mxc}", timeout_ms="0")
    assert early.status == 504
    assert b"M_NOT_YET_UPLOADED" in early.data

    await fills(alice, mxc, b"here", filename="h.txt")
    answer = await downloads(bob, mxc)
    assert (answer.data, answer.headers["Content-Type"]) == (b"here", "text/plain")
    assert answer.headers["Content-Disposition"] == 'inline; filename="h.txt"'


async def test_a_download_waits_for_the_upload(alice: Person, bob: Person) -> None:
    mxc = await creates(alice)

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(downloads(bob, mxc)) for _ in range(3)]
        await fetches(bob, f"client/v1/media/download/{mxc}", timeout_ms="1")
        await fills(alice, mxc, b"at last")

    assert [task.result().data for task in waiting] == [b"at last"] * 3


async def test_an_id_is_filled_once_and_by_its_owner(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    mxc = await creates(alice)

    async def refusal(person: Person, mxc: str) -> tuple[int, str | None]:
        with pytest.raises(Refused) as refused:
            await fills(person, mxc, b"other bytes")
        return refused.value.status, refused.value.errcode

    assert await refusal(bob, mxc) == (403, "M_FORBIDDEN")
    results = await asyncio.gather(
        *(fills(alice, mxc, str(n).encode()) for n in range(4)), return_exceptions=True
    )
    errors = [result for result in results if result is not None]
    assert len(errors) == 3
    assert {e.errcode for e in errors if isinstance(e, Refused)} == {"M_CANNOT_OVERWRITE_MEDIA"}
    assert await refusal(alice, mxc) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    counts = await homeserver.parts.services.db.rows("SELECT reference_count FROM media_file")
    assert counts == [(1,)]

    assert await refusal(alice, f"{homeserver.server_name}/unknown") == (404, "M_NOT_FOUND")
    assert await refusal(alice, mxc.replace("test.example", "other.example")) == (
        404, "M_NOT_FOUND",
    )  # fmt: skip
    finished = await uploads(alice, b"at once")
    assert await refusal(alice, finished) == (409, "M_CANNOT_OVERWRITE_MEDIA")


async def test_nobody_holds_many_ids_without_using_them(alice: Person, bob: Person) -> None:
    results = await asyncio.gather(
        *(creates(alice) for _ in range(MAX_OPEN_RESERVATIONS + 5)), return_exceptions=True
    )

    given = [result for result in results if isinstance(result, str)]
    refused = [result for result in results if isinstance(result, Refused)]
    assert (len(given), len(refused)) == (MAX_OPEN_RESERVATIONS, 5)
    assert {(e.status, e.errcode) for e in refused} == {(429, "M_LIMIT_EXCEEDED")}
    assert all(e.body["retry_after_ms"] > 1000 for e in refused)
    await creates(bob)
    await fills(alice, given[0], b"used")
    await creates(alice)


class _Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms


async def _body(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_an_id_that_is_not_used_in_time_ends(tmp_path: Path, dialect: Dialect) -> None:
    clock = _Clock()
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as db:
        repository = ContentRepository(
            db, clock, FileStore(tmp_path / "media"), "test.example",
            max_upload_bytes=1000, is_public=False,
        )  # fmt: skip
        repository.prepare()
        uris = []
        for _ in range(MAX_OPEN_RESERVATIONS):
            uri, expires_ms = await repository.reserve("@a:test.example")
            uris.append(uri.rpartition("/")[2])
        assert expires_ms == clock.ms + RESERVATION_LIFETIME_MS

        async def late(size: int) -> AsyncIterator[bytes]:
            yield b"x" * size
            clock.ms = expires_ms

        # The time runs out while the bytes arrive.
        with pytest.raises(MatrixError) as error:
            await repository.fill(
                "@a:test.example", "test.example", uris[0], late(10),
                content_type=None, file_name=None,
            )  # fmt: skip
        assert (error.value.status, error.value.errcode) == (404, "M_NOT_FOUND")
        for media_id in uris:
            with pytest.raises(MatrixError) as error:
                await repository.get("test.example", media_id, 1000)
            assert error.value.errcode == "M_NOT_FOUND"
        assert await db.rows("SELECT * FROM media_file") == []

        await repository.reserve("@a:test.example")
        assert await db.row("SELECT count(*) FROM media") == (1,)
        repository.close()


# Parts, and what the client has already.


async def test_a_part_of_a_file_can_be_had(alice: Person) -> None:
    mxc = await uploads(alice, SOME_BYTES)
    size = len(SOME_BYTES)

    for wanted, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=100000-599999", 100_000, 600_000),
        ("bytes=699990-", 699_990, size),
        ("bytes=699990-99999999999", 699_990, size),
        ("bytes=-10", size - 10, size),
        ("bytes=-99999999", 0, size),
    ):
        answer = await downloads(alice, mxc, Range=wanted)
        assert answer.status == 206, wanted
        assert answer.data == SOME_BYTES[start:end]
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"

    for wanted in ("bytes=700000-", "bytes=-0"):
        answer = await downloads(alice, mxc, Range=wanted)
        assert answer.status == 416
        assert answer.headers["Content-Range"] == f"bytes */{size}"

    for wanted in ("bytes=0-1,5-6", "bytes=5-2", "bytes=", "lines=1-2", "bytes=x-", "bytes=１-２"):
        answer = await fetches(alice, f"client/v1/media/download/{mxc}", headers={"Range": wanted})
        assert (answer.status, answer.data == SOME_BYTES) == (200, True), wanted


async def test_a_part_is_only_continued_from_the_same_file(alice: Person) -> None:
    mxc = await uploads(alice, SOME_BYTES)
    tag = (await downloads(alice, mxc)).headers["ETag"]

    assert (await downloads(alice, mxc, Range="bytes=5-9", If_Range=tag)).status == 206
    for other in ('"other"', f"W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = await downloads(alice, mxc, Range="bytes=5-9", If_Range=other)
        assert (answer.status, len(answer.data)) == (200, len(SOME_BYTES))


async def test_what_the_client_has_is_not_sent_again(alice: Person) -> None:
    mxc = await uploads(alice, SOME_BYTES)
    tag = (await downloads(alice, mxc)).headers["ETag"]

    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await downloads(alice, mxc, If_None_Match=held)
        assert (answer.status, answer.data) == (304, b"")
        assert answer.headers["ETag"] == tag
    assert (await downloads(alice, mxc, If_None_Match='"other"')).data == SOME_BYTES

    alone = await fetches(alice, f"client/v1/media/download/{mxc}", verb="HEAD")
    assert (alone.status, alone.data) == (200, b"")
    assert alone.headers["Content-Length"] == str(len(SOME_BYTES))


def test_ranges_are_read_as_the_standard_says() -> None:
    assert parse_range("bytes=2-4") == ByteRange(2, 4)
    assert ByteRange(2, 4).within(10) == (2, 3)
    assert ByteRange(2, 4).within(3) == (2, 1)
    assert ByteRange(2, 4).within(2) is None
    assert ByteRange(None, 4).within(10) == (6, 4)
    assert ByteRange(None, 4).within(0) is None
    assert parse_range("bytes=" + "9" * 30 + "-") is None
    assert parse_range(None) is None


# What is not there, and paths that are none.


async def test_there_is_nothing_at_other_servers_or_strange_ids(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    mxc = await uploads(alice, b"secret", filename="x")
    media_id = mxc.partition("/")[2]
    name = homeserver.server_name
    bad = [
        f"{name}/unknown", f"matrix.org/{media_id}", f"{name}:443/{media_id}",
        f"{name.upper()}/{media_id}", f"{name}/..%2f..%2fetc%2fpasswd", f"..%2f..%2f/{media_id}",
        f"{name}/%00", f"{name}/{media_id}%00", f"{name}/{media_id}%0a", f"{name}/..%252f",
        f"{name}/%2e%2e", f"{name}/{'a' * 300}", f"%E4%BD%A0/{media_id}", f"{name}/%E4%BD%A0",
        f"//{media_id}",
    ]  # fmt: skip

    for path in bad:
        for kind in ("download", "thumbnail"):
            refused = await alice.refused(
                "GET",
                f"/_matrix/client/v1/media/{kind}/{path}?width=32&height=32%20".removesuffix("%20"),
            )
            assert (refused.status, refused.errcode) in {
                (404, "M_NOT_FOUND"), (404, "M_UNRECOGNIZED"),
            }, path  # fmt: skip
        refused = await alice.refused("PUT", f"/_matrix/media/v3/upload/{path}", {})
        assert refused.status == 404
    assert len(stored_files(homeserver)) == 1


async def test_previews_are_not_there_yet(alice: Person) -> None:
    for path in ("client/v1/media/preview_url", "media/v3/preview_url"):
        refused = await alice.refused("GET", f"/_matrix/{path}?url=http://x/")
        assert (refused.status, refused.errcode) == (404, "M_UNRECOGNIZED")


async def test_only_where_the_configuration_says_so_may_anybody_read(
    homeserver: HomeserverInProcess, alice: Person, tmp_path: Path
) -> None:
    paths = ("media/v3/download/{}", "media/r0/download/{}", "media/v3/download/{}/name.png")
    data = encoded(gradient(200, 200))
    mxc = await uploads(alice, data, "image/png")
    for path in (*paths, "media/v3/thumbnail/{}", "media/r0/thumbnail/{}"):
        answer = await fetches(alice, path.format(mxc), token=False, width="32", height="32")
        assert answer.status == 404
        assert b"M_NOT_FOUND" in answer.data

    overrides: dict[str, object] = {"media.unauthenticated_download": True}
    async with homeserver_in_process(tmp_path / "public", **overrides) as public:
        carol = await public.person("carol")
        mxc = await uploads(carol, data, "image/png")
        for path in paths:
            answer = await fetches(carol, path.format(mxc), token=False)
            assert (answer.status, answer.data) == (200, data)
        small = await fetches(
            carol, f"media/r0/thumbnail/{mxc}", token=False, width="96", height="96", method="crop"
        )
        assert small.picture.size == (96, 96)


async def test_a_file_that_is_lost_is_not_found(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    mxc = await uploads(alice, SOME_BYTES)
    for path in stored_files(homeserver):
        path.unlink()
    assert (await downloads(alice, mxc)).status == 404

    await uploads(alice, SOME_BYTES)
    assert (await downloads(alice, mxc)).data == SOME_BYTES


# Thumbnails.


async def test_a_thumbnail_shows_the_whole_picture_or_fills_the_box(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    mxc = await uploads(alice, encoded(gradient(2000, 1000)), "image/png")

    scaled = await thumbnail(alice, mxc, 300, 200)
    assert scaled.picture.size == (320, 160)
    assert scaled.headers["Content-Type"] == "image/jpeg"
    assert scaled.headers["Content-Disposition"] == 'inline; filename="thumbnail.jpeg"'
    assert scaled.headers["X-Content-Type-Options"] == "nosniff"

    cropped = (await thumbnail(alice, mxc, 50, 50, method="crop")).picture.convert("RGB")
    assert cropped.size == (96, 96)
    # Only the middle half of the width is left.
    reds = [cropped.getpixel((x, 48)) for x in (1, 94)]
    assert [abs(r[0] - middle) < 12 for r, middle in zip(reds, (64, 191), strict=True)] == [  # type: ignore[index]
        True, True,
    ]  # fmt: skip

    assert len(stored_files(homeserver, "thumbnails")) == 2
    held = await fetches(
        alice, f"client/v1/media/thumbnail/{mxc}", width="300", height="200",
        headers={"If-None-Match": scaled.headers["ETag"]},
    )  # fmt: skip
    assert held.status == 304


async def test_a_thumbnail_is_made_once(homeserver: HomeserverInProcess, alice: Person) -> None:
    mxc = await uploads(alice, encoded(gradient(1000, 1000)), "image/png")

    answers = await asyncio.gather(
        *(thumbnail(alice, mxc, 32, 32, method="crop") for _ in range(8))
    )

    assert len({answer.data for answer in answers}) == 1
    (made,) = stored_files(homeserver, "thumbnails")
    before = made.stat().st_mtime_ns
    assert (await thumbnail(alice, mxc, 20, 31, method="crop")).data == answers[0].data
    (again,) = stored_files(homeserver, "thumbnails")
    assert again.stat().st_mtime_ns == before


async def test_nothing_is_made_larger(alice: Person) -> None:
    data = encoded(gradient(60, 40))
    mxc = await uploads(alice, data, "image/png")

    for method in ("scale", "crop"):
        answer = await thumbnail(alice, mxc, 800, 600, method=method)
        assert (answer.status, answer.data) == (200, data)
        assert answer.headers["Content-Type"] == "image/png"

    narrow = await uploads(alice, encoded(gradient(50, 500)), "image/png")
    assert (await thumbnail(alice, narrow, 96, 96, method="crop")).picture.size == (50, 50)
    large = await uploads(alice, encoded(gradient(2500, 2000)), "image/png")
    assert (await thumbnail(alice, large, 2000, 2000)).picture.size == (2500, 2000)


async def test_the_type_of_a_thumbnail_is_what_it_is(alice: Person) -> None:
    """Nobody gets a page served as a picture, or a picture under a name of the uploader's."""
    mxc = await uploads(alice, encoded(gradient(20, 20), "WEBP"), "image/png")
    assert (await thumbnail(alice, mxc, 32, 32)).headers["Content-Type"] == "image/webp"

    page = await uploads(alice, b"<html><script>alert(1)</script>", "image/png")
    assert (await thumbnail(alice, page, 32, 32)).status == 400


async def test_transparency_survives(alice: Person) -> None:
    image = Image.new("RGBA", (500, 500), (255, 0, 0, 0))
    mxc = await uploads(alice, encoded(image), "image/png")
    palette = await uploads(alice, encoded(image.convert("P"), "GIF", transparency=0), "image/gif")

    for source in (mxc, palette):
        made = (await thumbnail(alice, source, 96, 96, method="crop")).picture
        assert made.format == "PNG"
        assert made.convert("RGBA").getpixel((48, 48))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
async def test_png_of_every_kind_has_a_thumbnail(tmp_path: Path, mode: str) -> None:
    source = gradient(300, 200)
    image = source.convert("L").convert("I;16") if mode == "I;16" else source.convert(mode)

    async with homeserver_in_process(tmp_path) as server:
        alice = await server.person("alice")
        mxc = await uploads(alice, encoded(image), "image/png")
        assert (await thumbnail(alice, mxc, 96, 96, method="crop")).picture.size == (96, 96)


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_photograph_stands_upright_and_tells_nothing(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera of Alice"
    photograph = encoded(gradient(1600, 1000), "JPEG", exif=exif, comment=b"at home", quality=95)
    # What a viewer shows: the same turns, made by Pillow from the tag.
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(photograph)))

    async with homeserver_in_process(tmp_path) as server:
        alice = await server.person("alice")
        mxc = await uploads(alice, photograph, "image/jpeg")
        answer = await thumbnail(alice, mxc, 320, 240)
    made = answer.picture
    assert made.size == ((320, 200) if orientation < 5 else (150, 240))
    assert made.format == "JPEG"
    for across, down in ((0.1, 0.1), (0.9, 0.1), (0.1, 0.9)):
        small = made.getpixel((int(made.width * across), int(made.height * down)))
        large = shown.getpixel((int(shown.width * across), int(shown.height * down)))
        assert max(abs(a - b) for a, b in zip(small, large, strict=True)) < 10  # type: ignore[arg-type]
    assert not made.getexif()
    assert b"Alice" not in answer.data
    assert b"at home" not in answer.data


async def test_a_moving_picture_moves_only_when_asked_to(alice: Person) -> None:
    frames = [Image.new("RGB", (300, 300), (n * 60, 0, 0)) for n in range(4)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=70)
        mxc = await uploads(alice, data, f"image/{kind.lower()}")

        still = (await thumbnail(alice, mxc, 96, 96, method="crop")).picture
        assert getattr(still, "n_frames", 1) == 1
        moving = (await thumbnail(alice, mxc, 96, 96, method="crop", animated="true")).picture
        assert (moving.format, moving.n_frames, moving.size) == ("WEBP", 4, (96, 96))  # type: ignore[attr-defined]
        assert len((await thumbnail(alice, mxc, 300, 300, animated="false")).data) > 0
        whole = await thumbnail(alice, mxc, 640, 480, animated="false")
        assert getattr(whole.picture, "n_frames", 1) == 1
        assert (await thumbnail(alice, mxc, 640, 480, animated="true")).data == data

    jpeg = await uploads(alice, encoded(gradient(300, 300), "JPEG"), "image/jpeg")
    assert (await thumbnail(alice, jpeg, 96, 96, animated="true")).picture.format == "JPEG"


def webp_of_size(width: int, height: int) -> bytes:
    small = encoded(
        Image.new("RGBA", (2, 2)), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"
    )
    assert small[12:16] == b"VP8X"
    claimed = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return small[:24] + claimed + small[30:]


async def test_pictures_of_too_many_pixels_are_refused_unread(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    gif = bytearray(encoded(Image.new("P", (2, 2)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    jpeg = bytearray(encoded(gradient(16, 16), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)
    bombs = {
        "png": png_of_size(20_000, 20_000),
        "gif": bytes(gif),
        "jpeg": bytes(jpeg),
        "webp": webp_of_size(16_000, 16_000),
    }

    for kind, data in bombs.items():
        mxc = await uploads(alice, data, f"image/{kind}")
        for _ in range(2):
            answer = await thumbnail(alice, mxc, 96, 96, method="crop")
            assert (answer.status, b"M_TOO_LARGE" in answer.data) == (413, True), kind
        assert (await downloads(alice, mxc)).data == data
    assert stored_files(homeserver, "thumbnails") == stored_files(homeserver, "incoming") == []


async def test_the_limit_of_pixels_is_exact(tmp_path: Path) -> None:
    async with homeserver_in_process(tmp_path, **{"media.max_image_pixels": 40_001}) as server:
        alice = await server.person("alice")
        within = await uploads(alice, encoded(gradient(200, 200)), "image/png")
        beyond = await uploads(alice, encoded(gradient(202, 200)), "image/png")
        assert (await thumbnail(alice, within, 96, 96, method="crop")).status == 200
        assert (await thumbnail(alice, beyond, 96, 96, method="crop")).status == 413


async def test_broken_pictures_are_answered_like_any_other_file(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    png, jpeg = encoded(gradient(300, 300)), encoded(gradient(300, 300), "JPEG")
    webp, gif = encoded(gradient(300, 300), "WEBP"), encoded(gradient(300, 300), "GIF")
    generator = random.Random(3)
    broken = [
        b"",
        b"\x89PNG\r\n\x1a\n",
        png[:100],
        jpeg[:200],
        webp[:40],
        gif[:60],
        SOME_BYTES[:5000],
    ]
    for data in (png, jpeg, webp, gif):
        noisy = bytearray(data)
        for _ in range(40):
            noisy[generator.randrange(20, len(noisy))] = generator.randrange(256)
        broken.append(bytes(noisy))
    # Formats that Pillow reads, and we do not.
    broken += [encoded(gradient(300, 300), kind) for kind in ("BMP", "TIFF", "PPM", "ICO", "PDF")]

    for data in broken:
        mxc = await uploads(alice, data, "image/png")
        answer = await thumbnail(alice, mxc, 96, 96, method="crop")
        assert answer.status in (200, 400), data[:20]
        if answer.status == 400:
            assert b"M_UNKNOWN" in answer.data
    assert stored_files(homeserver, "incoming") == []


async def test_an_animation_without_end_becomes_a_still_picture(alice: Person) -> None:
    frames = [Image.new("P", (100, 100), n % 2) for n in range(301)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    mxc = await uploads(alice, data, "image/gif")

    answer = await thumbnail(alice, mxc, 96, 96, method="crop", animated="true")

    assert getattr(answer.picture, "n_frames", 1) == 1


async def test_encrypted_files_have_no_thumbnail(alice: Person) -> None:
    mxc = await uploads(alice, encoded(gradient(300, 300)), "application/octet-stream")

    answer = await thumbnail(alice, mxc, 96, 96)

    assert (answer.status, b"M_UNKNOWN" in answer.data) == (400, True)


@pytest.mark.parametrize(
    "params",
    [
        {}, {"width": "32"}, {"height": "32"}, {"width": "0", "height": "32"},
        {"width": "-1", "height": "32"}, {"width": "1.5", "height": "32"},
        {"width": "9" * 40, "height": "32"}, {"width": "三", "height": "32"},
        {"width": "32", "height": "32", "method": "explode"},
        {"width": "32", "height": "32", "animated": "perhaps"},
    ],
)  # fmt: skip
async def test_a_request_that_makes_no_sense_is_refused(
    alice: Person, params: dict[str, str]
) -> None:
    mxc = await uploads(alice, encoded(gradient(300, 300)), "image/png")

    answer = await fetches(alice, f"client/v1/media/thumbnail/{mxc}", **params)

    assert answer.status == 400


def test_wishes_are_rounded_up_to_few_sizes() -> None:
    assert choose_variant(1, 1, "crop", animated=False).box == (32, 32)
    assert choose_variant(33, 40, "crop", animated=False).box == (96, 96)
    assert choose_variant(97, 97, "crop", animated=False).box == (320, 320)
    assert choose_variant(300, 200, "crop", animated=False).box == (320, 240)
    assert choose_variant(32, 32, "scale", animated=False).box == (320, 240)
    assert choose_variant(200, 400, "scale", animated=False).box == (640, 480)
    assert choose_variant(801, 600, "scale", animated=False).box == (1600, 1200)
    assert choose_variant(5000, 1, "scale", animated=False).box is None
    assert choose_variant(700, 700, "crop", animated=False).box is None

    wishes = [
        choose_variant(w, h, method, animated=False)
        for method in ("crop", "scale")
        for w in range(1, 2000, 37)
        for h in range(1, 2000, 37)
    ]
    assert len(set(wishes)) <= 12


def test_a_thumbnail_is_never_larger_than_its_box_or_its_picture() -> None:
    generator = random.Random(8)
    for _ in range(2000):
        size = generator.randint(1, 3000), generator.randint(1, 3000)
        box = generator.choice([(32, 32), (96, 96), (320, 240), (800, 600)])
        for crop in (True, False):
            made, (left, top, right, bottom) = fit(size, box, crop=crop)
            assert 1 <= made[0] <= min(size[0], box[0])
            assert 1 <= made[1] <= min(size[1], box[1])
            assert -1e-6 <= left < right <= size[0] + 1e-6
            assert -1e-6 <= top < bottom <= size[1] + 1e-6


# The disk.


def test_what_an_earlier_run_left_half_done_is_removed(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "media")
    store.prepare()
    kept = store.keep(b"whole")
    half = store.begin()
    half.write(b"half")
    half._file.close()  # the process ends here

    store = FileStore(tmp_path / "media")
    store.prepare()

    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert names == [kept.digest.hex()]


def test_bytes_are_on_the_disk_before_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that survives a power cut: file synced, renamed, folder synced."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def follow_fsync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def follow_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    store = FileStore(tmp_path / "media")
    store.prepare()
    monkeypatch.setattr(media_files.os, "fsync", follow_fsync)
    monkeypatch.setattr(Path, "replace", follow_replace)
    file = store.begin()
    name = file._path.name if file._path else ""
    file.write(b"some ")
    kept = file.keep(b"bytes")

    assert kept.size == 10
    assert steps == [f"sync {name}", "sync files", "rename", f"sync {kept.digest.hex()[:2]}"]
    assert store.path_of(hashlib.sha256(b"some bytes").digest()).read_bytes() == b"some bytes"


async def test_a_full_disk_is_a_503_and_names_nothing(
    homeserver: HomeserverInProcess, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(media_files.os, "fsync", full)
        for size in (10, 700_000):
            with pytest.raises(Refused) as refused:
                await uploads(alice, SOME_BYTES[:size])
            assert refused.value.status == 503
    assert stored_files(homeserver) == stored_files(homeserver, "incoming") == []
    assert await homeserver.parts.services.db.rows("SELECT * FROM media") == []


async def test_references_are_counted_with_the_rows(tmp_path: Path, dialect: Dialect) -> None:
    async with opened_fresh(dialect, MIGRATIONS, tmp_path) as db:
        for media_id in ("a", "b"):
            tx = Transaction()
            storage.append_media(
                tx, media_id, "@a:x", b"\1" * 32, 5,
                content_type="a/b", file_name=None, now_ms=1,
            )  # fmt: skip
            await db.commit(tx)
        # An id that exists: nothing of the job remains, the count neither.
        tx = Transaction()
        storage.append_media(
            tx, "a", "@a:x", b"\1" * 32, 5, content_type="a/b", file_name=None, now_ms=1
        )
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await db.commit(tx)
        assert await db.rows("SELECT reference_count FROM media_file") == [(2,)]


def test_a_name_in_a_header_can_be_read_back() -> None:
    assert disposition("image/png", None) == "inline"
    assert disposition("application/pdf", "a.pdf") == 'attachment; filename="a.pdf"'
    assert disposition("image/png", 'a"b\\c.png') == r'inline; filename="a\"b\\c.png"'
    assert disposition("image/png", "报告 (1).png") == (
        "inline; filename*=UTF-8''%E6%8A%A5%E5%91%8A%20%281%29.png"
    )
