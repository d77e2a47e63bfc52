"""Answers are compressed for clients that ask for it, where that gives nothing away."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.compression import INLINE_BYTES, MIN_BYTES, accepts_gzip, gzipped
from yizhan_server.pages.all_pages import PAGES
from yizhan_testing.homeserver import homeserver_in_process

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.homeserver import HomeserverInProcess, Person

SYNC = "/_matrix/client/v3/sync"
LONG = "长话短说。" * 300
MANY = 40


async def fetch(
    person: Person, path: str, accept: str | None, method: str = "GET", body: object = None
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Return an answer as it came over the wire; `accept` is the header, None for none."""
    headers = {"Authorization": f"Bearer {person.token}"}
    if accept is not None:
        headers["Accept-Encoding"] = accept
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as http,
        http.request(method, person.base_url + path, headers=headers, json=body) as response,
    ):
        return response, await response.read()


async def test_a_long_answer_is_compressed_for_whoever_asks(alice: Person) -> None:
    room = await alice.creates_room()
    await alice.says(room, LONG)
    plain, body = await fetch(alice, SYNC, None)
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == "Accept-Encoding"

    packed, compressed = await fetch(alice, SYNC, "gzip, deflate, br")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert packed.headers["Content-Type"] == "application/json"
    assert len(compressed) < len(body) / 2
    unpacked = json.loads(gzip.decompress(compressed))
    assert unpacked["rooms"].keys() == json.loads(body)["rooms"].keys()


async def test_a_very_long_answer_is_compressed_too(alice: Person) -> None:
    room = await alice.creates_room()
    for _ in range(MANY):
        await alice.says(room, LONG)
    path = f"{SYNC}?filter=" + json.dumps({"room": {"timeline": {"limit": MANY}}})
    packed, compressed = await fetch(alice, path, "gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    body = gzip.decompress(compressed)
    assert len(body) > INLINE_BYTES
    timeline = json.loads(body)["rooms"]["join"][room]["timeline"]["events"]
    assert [event["content"].get("body") for event in timeline] == [LONG] * MANY


async def test_sliding_sync_is_compressed(alice: Person) -> None:
    await alice.creates_room(topic=LONG)
    body = {
        "lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 9, "required_state": [["*", "*"]]}}
    }
    packed, compressed = await fetch(alice, "/_matrix/client/v4/sync", "gzip", "POST", body)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(compressed))["lists"]["all"]["count"] == 1


async def test_a_short_answer_is_left_as_it_is(alice: Person) -> None:
    answer, body = await fetch(alice, "/_matrix/client/v3/account/whoami", "gzip")
    assert len(body) < MIN_BYTES
    assert "Content-Encoding" not in answer.headers
    assert json.loads(body)["user_id"] == alice.user_id


async def test_a_head_request_gets_the_headers_of_the_compressed_answer(alice: Person) -> None:
    await alice.creates_room(topic=LONG)
    answer, body = await fetch(alice, SYNC, "gzip", "HEAD")
    assert (answer.status, answer.headers["Content-Encoding"], body) == (200, "gzip", b"")


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("*", True),
        ("gzip ; q=0.001", True),
        ("", False),
        ("identity", False),
        ("deflate, br, zstd", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, deflate", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity;q=1, gzip;q=0.5", False),
        ("gzip;q=high", False),
        ("gzip;q", False),
        (",;=,", False),
    ],
)
async def test_the_client_says_what_it_accepts(alice: Person, header: str, wanted: bool) -> None:
    assert accepts_gzip(header) is wanted
    await alice.creates_room(topic=LONG)
    answer, body = await fetch(alice, SYNC, header)
    assert answer.headers.get("Content-Encoding") == ("gzip" if wanted else None)
    assert json.loads(gzip.decompress(body) if wanted else body)["next_batch"]


async def test_files_are_sent_as_they_were_stored(alice: Person) -> None:
    text = LONG.encode()
    uploaded = await alice.call("POST", "/_matrix/media/v3/upload", data=text)
    path = "/_matrix/client/v1/media/download/" + uploaded["content_uri"].removeprefix("mxc://")
    answer, body = await fetch(alice, path, "gzip")
    assert "Content-Encoding" not in answer.headers
    assert body == text


async def test_the_length_of_an_answer_does_not_quite_tell_what_is_in_it() -> None:
    lengths = {len(gzipped(LONG.encode())) for _ in range(200)}
    assert len(lengths) > 50


def test_no_answer_that_holds_a_credential_is_compressed() -> None:
    compressed = {
        f"{route.method} {path}"
        for module in ROUTES
        for route in module.routes
        if route.may_compress
        for path in (route.path, *route.alternatives)
    }
    assert "GET /_matrix/client/v3/sync" in compressed
    assert not compressed & {
        "POST /_matrix/client/v3/login",
        "POST /_matrix/client/v3/register",
        "POST /_matrix/client/v3/refresh",
        "POST /_matrix/client/v1/login/get_token",
        "POST /_matrix/client/v3/user/{user_id}/openid/request_token",
        "GET /_matrix/client/v3/voip/turnServer",
    }
    assert not any("oauth" in each or "rendezvous" in each for each in compressed)
    # These know who calls by a cookie, which other sites can have sent.
    assert not any(route.may_compress for module in PAGES for route in module.routes)


async def test_a_proxy_that_compresses_can_be_left_to_it(tmp_path: Path) -> None:
    settings: dict[str, object] = {"listen.compression": False}
    async with homeserver_in_process(tmp_path, **settings) as homeserver:
        alice = await homeserver.person("alice")
        await alice.creates_room(topic=LONG)
        answer, body = await fetch(alice, SYNC, "gzip")
        assert "Content-Encoding" not in answer.headers
        assert json.loads(body)["next_batch"]


async def test_clients_in_use_read_it_without_knowing(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room()
    sent = await alice.says(room, LONG)
    url = f"{homeserver.base_url}{SYNC}"
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with homeserver.http.get(url, headers=headers) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        answer = await response.json()
    assert answer["rooms"]["join"][room]["timeline"]["events"][-1]["event_id"] == sent
