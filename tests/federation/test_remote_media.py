"""Files of other servers, read through one's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest_asyncio
from aiohttp import web

from yizhan_server.media.remote_media import DAY_MS, file_name_in
from yizhan_testing.departments import departments
from yizhan_testing.homeserver import homeserver_in_process
from yizhan_testing.media import Answer, encoded, fetches, file_of, gradient, uploads
from yizhan_testing.peer import federating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.later_clock import LaterClock
    from yizhan_testing.peer import Peer

DOWNLOAD = "/_matrix/federation/v1/media/download"


@pytest_asyncio.fixture
async def pair(
    tmp_path: Path, dialect: Dialect, clock: LaterClock
) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2, clock=clock) as servers:
        yield servers


async def reads(person: Person, uri: str, **params: Any) -> Answer:
    return await fetches(person, f"client/v1/media/download/{uri}", **params)


def errcode(answer: Answer) -> Any:
    return orjson.loads(answer.data)["errcode"]


async def test_a_file_is_fetched_once_and_read_by_many(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob, carol = await a.person("alice"), await b.person("bob"), await b.person("carol")
    uri = await uploads(alice, b"minutes", "text/plain", filename="纪要.txt")

    answers = await asyncio.gather(*(reads(person, uri) for person in (bob, carol) * 3))
    for answer in answers:
        assert (answer.status, answer.data) == (200, b"minutes")
        assert answer.headers["Content-Type"] == "text/plain"
        assert quote("纪要.txt") in answer.headers["Content-Disposition"]
        assert "sandbox" in answer.headers["Content-Security-Policy"]
    # It stays here when it is gone there.
    await a.parts.services.media.delete([uri.rpartition("/")[2]])
    assert (await reads(bob, uri)).data == b"minutes"


async def test_a_thumbnail_is_made_of_a_picture_from_elsewhere(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    uri = await uploads(alice, encoded(gradient(900, 600), "PNG"), "image/png")
    answer = await fetches(
        bob, f"client/v1/media/thumbnail/{uri}", width="320", height="240", method="scale"
    )
    assert answer.picture.size == (320, 213)


async def test_what_is_still_to_be_uploaded_is_waited_for(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    made = await alice.post("/_matrix/media/v1/create", {})
    uri = made["content_uri"].removeprefix("mxc://")

    early = await reads(bob, uri, timeout_ms="10")
    assert (early.status, errcode(early)) == (504, "M_NOT_YET_UPLOADED")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(reads(bob, uri))
        await reads(bob, uri, timeout_ms="20")
        await alice.call("PUT", f"/_matrix/media/v3/upload/{uri}", data=b"late")
    answer = waiting.result()
    assert (answer.status, answer.data) == (200, b"late")


async def test_what_is_not_there_or_not_to_be_fetched(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    uri = await uploads(alice, b"x")
    for path, status, code in (
        (f"{a.server_name}/nothing", 404, "M_NOT_FOUND"),
        (f"{a.server_name}/..%2F..%2Fetc", 404, "M_NOT_FOUND"),
        ("unlisted.example/abc", 403, "M_FORBIDDEN"),
    ):
        answer = await reads(bob, path)
        assert (answer.status, errcode(answer)) == (status, code)
    answer = await reads(bob, uri, allow_remote="false")
    assert (answer.status, errcode(answer)) == (404, "M_NOT_FOUND")
    # Servers do not hand on what is another one's.
    assert (await reads(bob, uri)).status == 200
    assert (await reads(alice, f"{b.server_name}/{uri.rpartition('/')[2]}")).status == 404


async def test_too_large_a_file_is_not_kept(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    settings = federating(authority, peer, **{"media.max_upload_bytes": 1000})
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        alice = await homeserver.person("alice")

        async def large(_: web.BaseRequest) -> web.StreamResponse:
            return file_of(b"x" * 1001)

        peer.answers["GET", f"{DOWNLOAD}/large"] = large
        for _ in range(2):
            answer = await reads(alice, f"{peer.name}/large")
            assert (answer.status, errcode(answer)) == (502, "M_TOO_LARGE")
        # That it is too large is not found out over and over.
        assert peer.count(f"{DOWNLOAD}/large") == 1
        assert not list((tmp_path / "media" / "files").glob("*/*"))


async def test_files_that_are_none_or_claim_to_be_pages(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    async def page(_: web.BaseRequest) -> web.StreamResponse:
        return file_of(b"<script>", "Content-Type: text/html\r\nContent-Disposition: inline")

    async def torn(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            body=b"--b\r\n\r\n{}\r\n--b\r\n\r\nhalf",
            headers={"Content-Type": "multipart/mixed; boundary=b"},
        )

    async def plain(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"no parts")

    async def odd(_: web.BaseRequest) -> web.StreamResponse:
        return file_of(
            b"odd", "Content-Type: a b c\r\nContent-Disposition: x; filename*=utf-8''%00%ff"
        )

    for name, handler in (("page", page), ("torn", torn), ("plain", plain), ("odd", odd)):
        peer.answers["GET", f"{DOWNLOAD}/{name}"] = handler
    shown = await reads(alice, f"{peer.name}/page")
    assert shown.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in shown.headers["Content-Security-Policy"]
    for name in ("torn", "plain"):
        answer = await reads(alice, f"{peer.name}/{name}")
        assert (answer.status, errcode(answer)) == (502, "M_UNKNOWN")
    strange = await reads(alice, f"{peer.name}/odd")
    assert strange.headers["Content-Type"] == "application/octet-stream"


async def test_what_nobody_reads_any_more_is_removed(
    pair: list[HomeserverInProcess], clock: LaterClock, tmp_path: Path
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    old, new = await uploads(alice, b"old"), await uploads(alice, b"new")
    await reads(bob, old)
    await reads(bob, new)
    clock.later_ms = 20 * DAY_MS
    await reads(bob, new)
    clock.later_ms = 31 * DAY_MS
    remote = b.parts.services.remote_media
    assert await remote.purge(clock.now_ms() - 30 * DAY_MS) == 1
    kept = [file.read_bytes() for file in (tmp_path / "department-1/media/files").glob("*/*")]
    assert kept == [b"new"]
    assert (await reads(bob, old)).data == b"old"


async def test_files_of_others_take_no_more_space_than_they_may(
    tmp_path: Path, dialect: Dialect, clock: LaterClock
) -> None:
    async with departments(tmp_path, dialect, 2, clock=clock, **{"media.remote_bytes": 2500}) as (
        a,
        b,
    ):
        alice, bob = await a.person("alice"), await b.person("bob")
        for number in range(4):
            clock.later_ms += 1000
            assert (await reads(bob, await uploads(alice, bytes([number]) * 1000))).status == 200
        folder = tmp_path / "department-1/media/files"
        async with asyncio.timeout(10):
            while len(list(folder.glob("*/*"))) > 2:
                await bob.get("/v3/account/whoami")


async def test_an_administrator_sees_and_stops_files_of_others(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    admin = await b.person("admin", admin=True)
    uri, other = await uploads(alice, b"bad"), await uploads(alice, b"fine")
    await reads(bob, uri)
    await reads(bob, other)

    info = (await admin.get(f"/_synapse/admin/v1/media/{uri}"))["media_info"]
    assert (info["media_origin"], info["media_length"]) == (a.server_name, 3)
    await admin.post(f"/_synapse/admin/v1/media/quarantine/{uri}", {})
    assert (await reads(bob, uri)).status == 404
    await admin.delete(f"/_synapse/admin/v1/media/{uri}")
    # Fetched again it is still the same bytes.
    assert (await reads(bob, uri)).status == 404

    purged = await admin.call(
        "POST", "/_synapse/admin/v1/purge_media_cache", params={"before_ts": str(2**52)}
    )
    assert purged == {"deleted": 2}
    assert (await reads(bob, other)).data == b"fine"
    room = await bob.creates_room()
    await bob.sends(
        room, "m.room.message", {"msgtype": "m.file", "body": "x", "url": f"mxc://{other}"}
    )
    stopped = await admin.post(f"/_synapse/admin/v1/room/{quote(room)}/media/quarantine", {})
    assert stopped == {"num_quarantined": 1}
    assert (await reads(bob, other)).status == 404


def test_the_name_that_another_server_gives_a_file() -> None:
    assert file_name_in(None) is None
    assert file_name_in("attachment") is None
    assert file_name_in('inline; filename="a \\"b\\".txt"') == 'a "b".txt'
    assert file_name_in("inline; filename=plain.txt; x=1") == "plain.txt"
    assert file_name_in("inline; filename=a; filename*=UTF-8''%E7%BA%AA.txt") == "纪.txt"
    assert file_name_in("inline; filename*=utf-8''a%0d%0ab") == "a__b"
    assert file_name_in('inline; filename="' + "x" * 2000 + '"') is None
