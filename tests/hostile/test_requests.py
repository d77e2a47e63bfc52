"""Requests that are wrong before any endpoint looks at them: methods, paths, encodings, sizes."""

from __future__ import annotations

import asyncio
import gzip
from urllib.parse import quote, urlsplit

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import DEFAULT_MAX_BODY, Router
from yizhan_testing.attacks import Town

CLIENT = "/_matrix/client/v3"


async def raw(town: Town, request: bytes) -> bytes:
    """Send bytes as they are; returns everything that comes back."""
    address = urlsplit(town.homeserver.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def request_line(town: Town, line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    fields = [
        line + b" HTTP/1.1", b"Host: test.example", b"Connection: close",
        b"Authorization: Bearer " + town.alice.token.encode(), *headers,
    ]  # fmt: skip
    return b"\r\n".join(fields) + b"\r\n\r\n" + body


async def test_unknown_paths_are_404_and_wrong_methods_405(town: Town) -> None:
    for path in (
        "/", "/_matrix", "/_matrix/client", f"{CLIENT}/", f"{CLIENT}/nothing", f"{CLIENT}//sync",
        f"{CLIENT}/sync/", f"{CLIENT}/sync/more", "/_matrix/client/v99/sync", f"{CLIENT}/Sync",
        f"{CLIENT}/rooms/../sync", f"{CLIENT}/rooms/%2e%2e/sync", f"{CLIENT}%2Fsync",
        "/_matrix/client/./v3/sync", "/..%2f..%2fetc/passwd", "/_matrix/federation/v1/nothing",
    ):  # fmt: skip
        answer = await town.attacks("GET", path)
        assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED"), path
    by_path: dict[str, set[str]] = {}
    for route in Router(list(ROUTES)).routes:
        for path in (route.path, *route.alternatives):
            concrete = "/".join("x" if part.startswith("{") else part for part in path.split("/"))
            by_path.setdefault(concrete, set()).add(route.method)
    for concrete, methods in by_path.items():
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "PROPFIND"} - methods:
            answer = await town.attacks(method, concrete)
            assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED"), (method, concrete)


async def test_every_path_answers_a_preflight(town: Town) -> None:
    for path in (f"{CLIENT}/sync", f"{CLIENT}/nothing", "/", f"{CLIENT}/rooms/%FF/state"):
        answer = await town.calls("OPTIONS", path, token=None)
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert {"GET", "PUT", "POST", "DELETE"} <= set(
            answer.headers["Access-Control-Allow-Methods"].split(", ")
        )
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_head_is_get_without_a_body(town: Town) -> None:
    answer = await town.calls("HEAD", f"{CLIENT}/account/whoami")
    assert (answer.status, answer.body) == (200, b"")


async def test_a_path_that_is_not_utf8_is_refused(town: Town) -> None:
    for segment in ("%FF", "%C3%28", "%ED%A0%80", "%F8%88%80%80%80"):
        answer = await town.attacks("GET", f"{CLIENT}/rooms/{segment}/state")
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_raw_bytes_in_the_request_line_are_no_server_error(town: Town) -> None:
    for target in (
        b"/_matrix/client/v3/rooms/\xff/state",
        b"/_matrix/client/v3/rooms/\xed\xa0\x80/state",
        b"/_matrix/client/v3/sync?since=\xff",
        b"/_matrix/client/v3/sync?filter=%FF",
        b"/_matrix/client/v3/sync?filter=%ED%A0%80",
        b"/_matrix/client/v3/rooms/%/state",
        b"/_matrix/client/v3/rooms/%zz/state",
        b"*",
        b"//",
    ):
        answer = await raw(town, request_line(town, b"GET " + target))
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:300]


async def test_a_body_must_be_what_its_encoding_says(town: Town) -> None:
    path = f"{CLIENT}/rooms/{quote(town.room)}/send/m.room.message/t"
    for number, (data, headers, status) in enumerate(
        (
            (b"not gzip at all", {"Content-Encoding": "gzip"}, 400),
            (
                gzip.compress(b'{"body":"hi","msgtype":"m.text"}')[:-9],
                {"Content-Encoding": "gzip"},
                400,
            ),
            (gzip.compress(b" " * (8 << 20)), {"Content-Encoding": "gzip"}, 413),
        )
    ):
        answer = await town.attacks("PUT", f"{path}{number}", data, headers=headers)
        assert answer.status == status, number
    chunked = request_line(
        town, b"PUT " + path.encode(), b"Transfer-Encoding: chunked", body=b"zz\r\nnonsense"
    )
    assert (await raw(town, chunked)).startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))


async def test_who_hangs_up_in_the_middle_of_a_body_changes_nothing(town: Town) -> None:
    before = town.position
    path = f"{CLIENT}/rooms/{quote(town.room)}/send/m.room.message/t"
    address = urlsplit(town.homeserver.base_url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        request_line(town, b"PUT " + path.encode(), b"Content-Length: 100", body=b'{"body":')
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await town.alice.syncs()
    assert town.position == before


async def test_bodies_that_are_no_json_are_said_to_be_none(town: Town) -> None:
    path = f"{CLIENT}/rooms/{quote(town.room)}/send/m.room.message/t"
    for body in (
        b"{", b"nonsense", b"'", b'{"a":1}}', b"{'a':1}", b'{"a":NaN}', b'{"a":Infinity}', b"\xff",
        b'{"a":"\xed\xa0\x80"}', b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":"\\x"}', b"\x00{}",
        b'{"a":"\x00"}', b'{"a":1,}', b'\xef\xbb\xbf{}', '{"a":1}'.encode("utf-16"), b'{"a":01}',
    ):  # fmt: skip
        for target in (path, "/_matrix/client/v3/createRoom"):
            answer = await town.attacks("PUT" if target == path else "POST", target, body)
            assert (answer.status, answer.errcode) == (400, "M_NOT_JSON"), (target, body)
    for body in (b"[]", b"1", b"null", b'"text"', b"true"):
        for target in (path, "/_matrix/client/v3/createRoom"):
            answer = await town.attacks("PUT" if target == path else "POST", target, body)
            assert (answer.status, answer.errcode) == (400, "M_BAD_JSON"), (target, body)


async def test_bodies_beyond_the_limit_are_refused(town: Town) -> None:
    big = b'{"body":"' + b"x" * (1 << 20) + b'"}'
    assert len(big) > DEFAULT_MAX_BODY
    answer = await town.attacks(
        "PUT", f"{CLIENT}/rooms/{quote(town.room)}/send/m.room.message/t", big
    )
    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")
    chunked = request_line(
        town,
        f"PUT {CLIENT}/rooms/{quote(town.room)}/send/m.room.message/t".encode(),
        b"Transfer-Encoding: chunked",
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big),
    )
    assert (await raw(town, chunked)).startswith(b"HTTP/1.1 413")


async def test_absurd_query_parameters_are_refused_or_bounded(town: Town) -> None:
    room = f"{CLIENT}/rooms/{quote(town.room)}"
    for query in (
        "timeout=--5", "timeout=-1", "timeout=1e3", "timeout=%2B5", "timeout=", "timeout=0x10",
        "timeout=%D9%A3", "timeout=99999999999999999999", "full_state=1", "full_state=TRUE",
        "set_presence=asleep", "since=x", "since=s", "since=s.1.x-1", "since=t1.1", "since=%00",
        "since=s..-", "filter={", "filter=[", "filter=%00", "filter=nosuch", "filter={}{}",
        "filter=" + "%00" * 16,
    ):  # fmt: skip
        answer = await town.attacks("GET", f"{CLIENT}/sync?{query}")
        assert answer.status in (400, 404), query
    for query in (
        "dir=x", "dir=", "", "dir=b&limit=-1", "dir=b&limit=x", "dir=b&from=x", "dir=b&to=%00",
        "dir=b&from=t1", "dir=b&from=t99999999999999999999.1", "dir=b&from=t1.1.1.1",
        "dir=b&filter=[]", "dir=b&filter={", "dir=b&from=t-1.1", "dir=b&limit=--1",
    ):  # fmt: skip
        answer = await town.attacks("GET", f"{room}/messages?{query}")
        assert answer.status == 400, query
    # The client's arithmetic may be off; its request is still meant.
    for query in ("dir=b&limit=99999999999999999", "dir=b&limit=0", "dir=f&limit=1000000"):
        assert (await town.attacks("GET", f"{room}/messages?{query}")).status == 200, query
    for path in (
        "/members?membership=x", "/members?at=x", "/members?not_membership=", "/members?at=%00",
        f"/context/{quote(town.event)}?limit=x", f"/context/{quote(town.event)}?filter=x",
        "/state/m.room.name/?format=xml",
    ):  # fmt: skip
        assert (await town.attacks("GET", room + path)).status == 400, path


async def test_tokens_of_other_installations_begin_anew(town: Town) -> None:
    now = (await town.alice.syncs()).next_batch
    epoch, position, rest = now.split(".", 2)
    for token in (
        f"sother.{position}.{rest}", f"{epoch}.{10**17}.{rest}",
        f"{epoch}.{int(position) + 1}.{rest}", f"sother.0.{rest}",
    ):  # fmt: skip
        answer = await town.attacks("GET", f"{CLIENT}/sync?since={token}")
        assert answer.status == 200, token
        timeline = answer.body["rooms"]["join"][town.room]["timeline"]["events"]
        assert town.event in [event["event_id"] for event in timeline], token
    for token in (
        f"{epoch}.0.{rest}",
        f"{epoch}.{position}.other-7",
        f"{epoch}.{position}.{rest}9",
    ):
        answer = await town.attacks("GET", f"{CLIENT}/sync?since={token}")
        assert answer.status == 200, token
