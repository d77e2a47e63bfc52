"""What is asked is signed, whom is asked is checked, and an answer is believed within bounds."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from yizhan_config.errors import ConfigurationError
from yizhan_server.federation_client import connections
from yizhan_server.federation_client.errors import (
    PeerNotAllowed,
    RemoteMisbehaved,
    RemoteRefused,
    RemoteUnavailable,
)
from yizhan_server.protocol.identifiers import RoomAlias, RoomID, ServerName, UserID
from yizhan_server.protocol.request_signing import (
    check_request_signature,
    parse_authorization,
    parse_content,
)
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.remote_servers import OWN, Network, Seen, free_address, open_network

A = ServerName("a.test:7100")
VERSION = "/_matrix/federation/v1/version"
PROFILE = "/_matrix/federation/v1/query/profile"


def check_signed(network: Network, seen: Seen, destination: ServerName = A) -> None:
    claimed = parse_authorization(seen.authorization)
    assert (claimed.origin, claimed.destination) == (OWN, destination)
    check_request_signature(
        claimed,
        method=seen.method,
        uri=seen.uri,
        destination=destination,
        content=parse_content(seen.body),
        keys={network.key.key_id: network.key.verify_key},
    )


# Who asks


async def test_a_request_is_signed_as_it_arrives(network: Network) -> None:
    there = await network.serves("a.test", port=7100)
    there.answers("GET", PROFILE, {"displayname": "张三"})
    there.answers("GET", "/_matrix/federation/v1/hierarchy/%21a%2Fb%3F%25%E5%BC%A0%3Aa.test", {})
    there.answers("POST", "/_matrix/federation/v1/publicRooms", {"chunk": []})
    user = UserID("@张/三?&=%41+ :a.test")

    assert await network.client.queries.profile(A, user) == {"displayname": "张三"}
    await network.client.queries.hierarchy(A, RoomID("!a/b?%张:a.test"))
    await network.client.queries.public_rooms(A, {"filter": {"generic_search_term": "报表"}})

    assert len(there.seen) == 3
    for seen in there.seen:
        check_signed(network, seen)


async def test_keys_and_versions_are_asked_for_without_a_signature(network: Network) -> None:
    there = await network.serves("a.test", port=7100)
    there.answers("GET", "/_matrix/key/v2/server", {"server_name": "a.test"})

    await network.client.queries.version(A)
    await network.client.keys.server_keys(A)
    assert [seen.authorization for seen in there.seen] == ["", ""]


# Who is asked


async def test_a_server_that_is_not_listed_is_not_asked(tmp_path: Path) -> None:
    async with open_network(tmp_path, allow=("b.test",)) as network:
        there = await network.serves("a.test", port=7100)
        for name in ("a.test:7100", "B.test", OWN):
            with pytest.raises(PeerNotAllowed):
                await network.client.queries.version(ServerName(name))
        assert there.connections == 0
        assert network.addresses.asked == []


async def test_a_server_does_not_ask_itself_though_everybody_is_allowed(network: Network) -> None:
    with pytest.raises(PeerNotAllowed):
        await network.client.queries.version(OWN)


@pytest.mark.parametrize("allow", ["*", "a.test:7100"])
async def test_loopback_is_not_asked_unless_it_is_configured(tmp_path: Path, allow: str) -> None:
    async with open_network(tmp_path, allow=(allow,), private_addresses=()) as network:
        there = await network.serves("a.test", port=7100)
        with pytest.raises(RemoteUnavailable, match="no public address"):
            await network.client.queries.version(A)
        assert there.connections == 0


@pytest.mark.parametrize("address", ["10.1.2.3", "172.16.9.9", "192.168.7.7", "fd00::7"])
async def test_only_a_server_that_is_listed_by_name_may_be_at_a_private_address(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.1)
    allow = ("*", "listed.test:7100")
    async with open_network(tmp_path, allow=allow, private_addresses=()) as network:
        network.addresses.zone = {"listed.test": [address], "other.test": [address]}
        with pytest.raises(RemoteUnavailable, match="no public address"):
            await network.asks("other.test:7100")
        # Nobody is at that address here, but now it is tried.
        with pytest.raises(RemoteUnavailable, match="Connect"):
            await network.asks("listed.test:7100")


# TLS


async def test_a_certificate_of_the_systems_authorities_is_accepted(
    network: Network, system_authority: CertificateAuthority
) -> None:
    await network.serves("a.test", port=7100, context=system_authority.server_context("a.test"))
    assert await network.asks(A) == "a.test"


@pytest.mark.parametrize("name", ["b.test", "*.a.test", "127.0.0.1"])
async def test_a_certificate_of_another_name_is_refused(network: Network, name: str) -> None:
    context = network.authority.server_context(name)
    there = await network.serves("a.test", port=7100, context=context)
    with pytest.raises(RemoteUnavailable, match="Certificate"):
        await network.client.queries.version(A)
    assert there.seen == []


async def test_an_expired_certificate_is_refused(network: Network) -> None:
    context = network.authority.server_context("a.test", expired=True)
    await network.serves("a.test", port=7100, context=context)
    with pytest.raises(RemoteUnavailable, match="Certificate"):
        await network.client.queries.version(A)


async def test_a_certificate_of_an_unknown_authority_is_refused(
    network: Network, tmp_path: Path
) -> None:
    unknown = CertificateAuthority(tmp_path, "unknown authority")
    await network.serves("a.test", port=7100, context=unknown.server_context("a.test"))
    with pytest.raises(RemoteUnavailable, match="Certificate"):
        await network.client.queries.version(A)


async def test_a_connection_that_one_name_has_opened_serves_no_other(network: Network) -> None:
    # Two names by SRV record on one host and port: each has to show its own certificate.
    there = await network.serves("a.test", port=7101)
    network.addresses.zone["host.test"] = [there.address]
    for name in ("a.test", "b.test"):
        network.dns.records[f"_matrix-fed._tcp.{name}"] = ["0 0 7101 host.test."]

    assert await network.asks("a.test") == "a.test"
    with pytest.raises(RemoteUnavailable, match="Certificate"):
        await network.asks("b.test")
    assert len(there.seen) == 1


async def test_certificates_are_not_checked_only_where_that_is_configured_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_network(tmp_path, verify_tls=False, trusted_ca_files=()) as network:
        context = network.authority.server_context("b.test", expired=True)
        await network.serves("a.test", port=7100, context=context)
        assert await network.asks(A) == "a.test"
    assert "federation.verify_tls" in caplog.text


@pytest.mark.parametrize("content", [None, "", "not a certificate"])
async def test_a_file_of_authorities_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match="trusted_ca_files"):
        async with open_network(tmp_path, trusted_ca_files=(file,)):
            pass


# What is answered


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, {"errcode": "M_FORBIDDEN", "error": "no"}, (403, "M_FORBIDDEN", "no")),
        (404, b"<html>", (404, "M_UNKNOWN", "")),
        (400, [], (400, "M_UNKNOWN", "")),
        (400, {"errcode": 5, "error": {}}, (400, "M_UNKNOWN", "")),
        (504, {"errcode": "M_NOT_YET_UPLOADED"}, (504, "M_NOT_YET_UPLOADED", "")),
    ],
)
async def test_an_error_of_the_specification_is_told_as_such(
    network: Network, status: int, body: Any, expected: tuple[int, str, str]
) -> None:
    there = await network.serves("a.test", port=7100)
    there.answers("GET", PROFILE, body, status=status)
    with pytest.raises(RemoteRefused) as refused:
        await network.client.queries.profile(A, UserID("@li:a.test"))
    told = refused.value
    assert (told.status, told.errcode, told.error, told.server) == (*expected, A)
    assert network.client.destinations.failing_since_ms(A) is None


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("body", [b"<html>", {"errcode": "M_UNKNOWN", "error": "oh"}])
async def test_a_server_that_is_broken_is_unavailable(
    network: Network, status: int, body: Any
) -> None:
    there = await network.serves("a.test", port=7100)
    there.answers("GET", PROFILE, body, status=status)
    with pytest.raises(RemoteUnavailable):
        await network.client.queries.profile(A, UserID("@li:a.test"))
    assert network.client.destinations.failing_since_ms(A) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"5",
        b'{"displayname": 1.5}',
        b'{"displayname": 9007199254740992}',
        b'{"displayname": 99999999999999999999999999}',
        b'{"displayname": NaN}',
        b'{"displayname": "\\ud800"}',
        b'{"displayname": "\xff"}',
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"[" * 200_000,
    ],
)
async def test_an_answer_that_is_no_canonical_json_is_refused(
    network: Network, body: bytes
) -> None:
    there = await network.serves("a.test", port=7100)
    there.answers("GET", PROFILE, body)
    with pytest.raises(RemoteMisbehaved):
        await network.client.queries.profile(A, UserID("@li:a.test"))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"room_id": 5, "servers": []},
        {"room_id": "!r:a.test"},
        {"room_id": "!r:a.test", "servers": None},
        {"room_id": "!r:a.test", "servers": [1]},
    ],
)
async def test_an_answer_without_what_was_asked_for_is_refused(
    network: Network, answer: Any
) -> None:
    there = await network.serves("a.test", port=7100)
    there.answers("GET", "/_matrix/federation/v1/query/directory", answer)
    with pytest.raises(RemoteMisbehaved):
        await network.client.queries.directory(A, RoomAlias("#r:a.test"))


async def test_a_redirect_is_not_followed(network: Network) -> None:
    there = await network.serves("a.test", port=7100)
    elsewhere = await network.serves("b.test", port=7100)
    headers = {"Location": f"https://b.test:7100{VERSION}"}
    there.answers("GET", VERSION, b"", status=302, headers=headers)
    with pytest.raises(RemoteMisbehaved):
        await network.client.queries.version(A)
    assert elsewhere.seen == []


@pytest.mark.parametrize("status", [200, 403])
async def test_an_answer_without_end_is_cut_off(network: Network, status: int) -> None:
    there = await network.serves("a.test", port=7100)
    sent = 0

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        while sent < 200_000_000:
            await response.write(b" " * 65_536)
            sent += 65_536
        return response

    there.handles("GET", PROFILE, pour)
    with pytest.raises(RemoteMisbehaved, match="too large"):
        await network.client.queries.profile(A, UserID("@li:a.test"))
    assert sent < 50_000_000


async def test_an_answer_that_does_not_end_in_time_is_given_up(tmp_path: Path) -> None:
    async with open_network(tmp_path, timeout_seconds=1) as network:
        there = await network.serves("a.test", port=7100)

        async def drip(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(100):
                await response.write(b" ")
                await asyncio.sleep(0.1)
            return response

        there.handles("GET", PROFILE, drip)
        with pytest.raises(RemoteUnavailable):
            await network.client.queries.profile(A, UserID("@li:a.test"))
        assert network.client.destinations.failing_since_ms(A) is not None


async def test_a_name_that_leads_nowhere_is_unavailable(network: Network) -> None:
    for name in ("nowhere.test", "a..test", "-", f"{'x' * 70}.test", "a.test:99999", "999.1.1.1"):
        with pytest.raises(RemoteUnavailable):
            await network.asks(name)


async def test_nothing_listens_at_the_address(network: Network) -> None:
    network.addresses.zone["a.test"] = [free_address()]
    with pytest.raises(RemoteUnavailable):
        await network.asks("a.test:7100")


async def test_the_answer_of_a_server_that_is_compressed_is_not_unpacked(network: Network) -> None:
    there = await network.serves("a.test", port=7100)
    there.answers("GET", VERSION, orjson.dumps({}), headers={"Content-Encoding": "gzip"})
    assert await network.client.queries.version(A) == {}


async def test_an_address_that_is_none_is_told_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"federation\.private_addresses"):
        async with open_network(tmp_path, private_addresses=("10.0.0.0/99",)):
            pass


async def test_hosts_that_never_answer_take_one_time_out_together(tmp_path: Path) -> None:
    async with open_network(tmp_path, timeout_seconds=1) as network:
        backlog = [silent_listener() for _ in range(4)]
        network.dns.records["_matrix-fed._tcp.a.test"] = [
            f"{number} 0 {listener.getsockname()[1]} {listener.getsockname()[0]}.nip.test."
            for number, listener in enumerate(backlog)
        ]
        for listener in backlog:
            address = listener.getsockname()[0]
            network.addresses.zone[f"{address}.nip.test"] = [address]
        started = time.monotonic()
        with pytest.raises(RemoteUnavailable):
            await network.asks("a.test")
        assert time.monotonic() - started < 3
        for listener in backlog:
            listener.close()


def silent_listener() -> socket.socket:
    """Return a socket that connections are made to, and that says nothing."""
    return socket.create_server((free_address(), 0))
