"""Media as people send it to each other, and as somebody hostile would."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from yizhan_database import Transaction
from yizhan_server.accounts.requester import Requester
from yizhan_server.api import media as media_api
from yizhan_server.api.client_address import ClientAddresses
from yizhan_server.api.file_answer import ByteRange, parse_range
from yizhan_server.api.limits import RateLimits
from yizhan_server.api.peer_authentication import PeerAuthentication
from yizhan_server.api.routing import Router, Wrapper
from yizhan_server.app import MIGRATIONS
from yizhan_server.appservices.identities import AppserviceIdentities
from yizhan_server.appservices.registered import Appservices
from yizhan_server.clock import SystemClock
from yizhan_server.media.disposition import disposition
from yizhan_server.media.files import FileStore
from yizhan_server.media.repository import (
    MAX_OPEN_RESERVATIONS,
    RESERVATION_LIFETIME_MS,
    ContentRepository,
)
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import DeviceID, UserID
from yizhan_server.storage import media as storage
from yizhan_testing.databases import Dialect, opened_fresh
from yizhan_testing.homeserver import (
    Homeserver,
    HomeserverInProcess,
    Person,
    Refused,
    homeserver_in_process,
)
from yizhan_testing.media import (
    downloads,
    encoded,
    fetches,
    gradient,
    stored_files,
    thumbnail,
    uploads,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SOME_BYTES = random.Random(5).randbytes(700_000)


def limit(max_upload_bytes: int) -> dict[str, Any]:
    return {"media.max_upload_bytes": max_upload_bytes}


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
    # An answer counts as given when the server has done with it, and before the next one is.
    assert (await downloads(bob, mxc)).data == SOME_BYTES


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


async def test_a_type_that_is_none_is_unknown(alice: Person) -> None:
    for claimed in ("nonsense", "a/b/c", "x" * 300, "图/片"):
        answer = await downloads(alice, await uploads(alice, b"data", claimed))
        assert answer.headers["Content-Type"] == "application/octet-stream"


async def test_names_cannot_break_headers_or_deceive(alice: Person) -> None:
    mxc = await uploads(alice, b"data", filename="a\r\nSet-Cookie: x=y\x07\u202egpj.exe")

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


def _no_appservices(homeserver: HomeserverInProcess) -> AppserviceIdentities:
    services = homeserver.parts.services
    return AppserviceIdentities(services.db, Appservices(()), services.accounts)


def _peers(homeserver: HomeserverInProcess) -> PeerAuthentication:
    services = homeserver.parts.services
    destinations = homeserver.parts.federation_client.destinations
    return PeerAuthentication(services.server_name, services.peers, services.key_ring, destinations)


async def test_guests_upload_nothing(homeserver: HomeserverInProcess, alice: Person) -> None:
    async def as_guest(_token: str) -> Requester:
        return Requester(UserID(alice.user_id), DeviceID("D"), 1, is_guest=True)

    wrapper = Wrapper(
        Router([media_api.routes]), homeserver.parts.services, RateLimits({}, SystemClock()),
        as_guest, _no_appservices(homeserver), ClientAddresses(()), _peers(homeserver),
        query_string_tokens=False,
        compress=True,
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

    async with homeserver_in_process(tmp_path, **limit(400_000)) as server:
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

    async with homeserver_in_process(tmp_path, **limit(1_000_000)) as server:
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


async def test_an_upload_that_stalls_is_given_up(
    homeserver: HomeserverInProcess, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_api, "STALLED_SECONDS", 0.2)
    host, port = homeserver.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n"
        b"Authorization: Bearer " + alice.token.encode() + b"\r\n\r\n" + SOME_BYTES
    )

    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.transport.abort()
    assert stored_files(homeserver) == stored_files(homeserver, "incoming") == []


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
    overrides: dict[str, Any] = {"rate_limits.enabled": True, "rate_limits.media.burst": 3}

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
        expires_ms = clock.ms + RESERVATION_LIFETIME_MS
        uris = []
        for _ in range(MAX_OPEN_RESERVATIONS):
            uri, until_ms = await repository.reserve("@a:test.example")
            assert until_ms == expires_ms
            uris.append(uri.rpartition("/")[2])

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


async def test_who_asks_for_the_head_is_told_of_the_whole(alice: Person) -> None:
    mxc = await uploads(alice, SOME_BYTES)
    path = f"client/v1/media/download/{mxc}"
    # RFC 9110, section 14.2: a range belongs to GET and to nothing else.
    head = await fetches(alice, path, verb="HEAD", headers={"Range": "bytes=5-9"})
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(SOME_BYTES)))
    assert head.headers["Accept-Ranges"] == "bytes"
    asked = await fetches(alice, path, verb="OPTIONS")
    for name in ("Range", "If-Range"):
        assert name in asked.headers["Access-Control-Allow-Headers"].split(", ")


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
                f"/_matrix/client/v1/media/{kind}/{path}?width=32&height=32&x=%20",
            )
            assert (refused.status, refused.errcode) in {
                (404, "M_NOT_FOUND"), (404, "M_UNRECOGNIZED"), (400, "M_INVALID_PARAM"),
                (403, "M_FORBIDDEN"),
            }, path  # fmt: skip
        refused = await alice.refused("PUT", f"/_matrix/media/v3/upload/{path}", {})
        assert refused.status in (400, 404), path
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

    overrides: dict[str, Any] = {"media.unauthenticated_download": True}
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
    monkeypatch.setattr(os, "fsync", follow_fsync)
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
        patch.setattr(os, "fsync", full)
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


# The program itself.


@pytest.mark.slow
async def test_files_of_any_size_pass_through_little_memory(tmp_path: Path) -> None:
    """As the program runs in earnest: its own process and event loop."""
    server = await Homeserver.start(tmp_path / "data")
    try:
        alice = await server.person("alice")
        await downloads(alice, await uploads(alice, SOME_BYTES))
        before = _peak_memory(server)

        async def sends(times: int) -> str:
            async with server.http.post(
                f"{server.base_url}/_matrix/media/v3/upload",
                data=_many(times),
                headers={"Authorization": f"Bearer {alice.token}"},
            ) as response:
                uri: str = (await response.json())["content_uri"]
                return uri.removeprefix("mxc://")

        mxcs = await asyncio.gather(*(sends(times) for times in (100, 110, 120)))
        for mxc, times in zip(mxcs, (100, 110, 120), strict=True):
            assert len((await downloads(alice, mxc)).data) == times * len(SOME_BYTES)

        picture = await uploads(alice, encoded(gradient(5000, 5000)), "image/png")
        assert (await thumbnail(alice, picture, 96, 96, method="crop")).picture.size == (96, 96)
        assert _peak_memory(server) - before < 24 << 20
    finally:
        await server.stop()


async def _many(times: int) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield SOME_BYTES


def _peak_memory(server: Homeserver) -> int:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def _holds(done: dict[str, bytes], enough: int) -> bool:
    return len(done) >= enough


@pytest.mark.slow
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    server = await Homeserver.start(tmp_path / "data")
    try:
        alice = await server.person("alice")
        done: dict[str, bytes] = {}

        async def uploads_until_the_end(generator: random.Random) -> None:
            while True:
                data = generator.randbytes(generator.randrange(600_000))
                try:
                    done[await uploads(alice, data)] = data
                except aiohttp.ClientError:
                    return

        for round_ in range(2):
            enough = len(done) + 12
            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(uploads_until_the_end(random.Random(round_ * 10 + number)))
                await _until(partial(_holds, done, enough))
                await server.kill()
            await server.resume()
            alice.base_url = server.base_url
            for mxc, data in done.items():
                assert (await downloads(alice, mxc)).data == data
            assert list((tmp_path / "data" / "media" / "incoming").iterdir()) == []
    finally:
        await server.stop()
