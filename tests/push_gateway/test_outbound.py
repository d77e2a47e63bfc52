"""Strangers name the addresses that the programs call: only public ones are called."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from ipaddress import ip_address

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from yizhan_config.errors import ConfigurationError
from yizhan_config.outbound import (
    AllowList,
    OutboundRefused,
    ResponseTooLarge,
    is_public,
    outbound_session,
    read_bounded,
)


class NameServer(AbstractResolver):
    """Answers with the addresses that a stranger put into a zone of theirs."""

    def __init__(self, **zone: list[str]) -> None:
        self.zone = {f"{name}.test": addresses for name, addresses in zone.items()}

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if host not in self.zone:
            raise OSError("no such name")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in self.zone[host]
        ]

    @override
    async def close(self) -> None:
        pass


@pytest.fixture
async def visits() -> AsyncIterator[list[str]]:
    """An inner service that nobody outside may reach; `visits` names who came, and its port."""
    came: list[str] = []

    async def visited(request: web.Request) -> web.Response:
        came.append(request.path)
        if request.path == "/redirect":
            raise web.HTTPFound("/inner")
        return web.Response(body=b"x" * 100)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", visited)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, _dual_stack_socket()).start()
    came.append(str(runner.addresses[0][1]))
    yield came
    await runner.cleanup()


def _dual_stack_socket() -> socket.socket:
    return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)


INNER_HOSTS = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fec0::1]",
    "224.0.0.1",
    "255.255.255.255",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "localhost",
    "loopback.test",
    "mapped.test",
    "mixed.test",
]


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("host", INNER_HOSTS)
async def test_an_inner_address_is_never_called(visits: list[str], host: str, scheme: str) -> None:
    port = visits[0]
    zone = NameServer(
        loopback=["127.0.0.1"], mapped=["::ffff:127.0.0.1"], mixed=["::1", "10.0.0.1"]
    )
    resolver = zone if host.endswith(".test") else None
    async with outbound_session(resolver=resolver, timeout_seconds=5) as session:
        with pytest.raises(OutboundRefused):
            async with session.request("GET", f"{scheme}://{host}:{port}/"):
                pass
    assert visits == [port]


async def test_the_socket_is_the_last_gate(visits: list[str]) -> None:
    # The checks of the URL and of the resolver are passed by on purpose: whatever they may come
    # to miss, the guard is asked again about the very address that is connected to.
    port = int(visits[0])
    async with outbound_session() as session:
        for address in ("127.0.0.1", "[::1]"):
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session._guarded.get(f"http://{address}:{port}/")
            assert isinstance(refused.value.os_error, OutboundRefused)
    assert visits == [str(port)]


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:{port}", "127.0.0.1"),
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8:{port}", "[::ffff:127.0.0.1]"),
        ("[::1]:{port}", "[::1]"),
        ("::1", "[::1]"),
        ("inner.test", "INNER.test."),
        ("inner.test:{port}", "inner.test"),
        ("*.test", "inner.test"),
    ],
)
async def test_what_the_administrator_lists_is_called_and_nothing_beside_it(
    visits: list[str], entry: str, host: str
) -> None:
    port = visits[0]
    zone = {"inner": ["127.0.0.1"], "other": ["127.0.0.1"]}
    name_server = NameServer(**zone)
    name_server.zone["inner.test."] = name_server.zone["INNER.test."] = ["127.0.0.1"]
    async with outbound_session([entry.format(port=port)], resolver=name_server) as session:
        async with session.request("GET", f"http://{host}:{port}/yes") as response:
            assert response.status == 200
        for refused in (f"http://other.invalid:{port}/no", f"http://192.168.77.7:{port}/no"):
            with pytest.raises(OutboundRefused):
                async with session.request("GET", refused):
                    pass
    assert visits == [port, "/yes"]


async def test_a_listed_port_opens_no_other(visits: list[str]) -> None:
    port = visits[0]
    async with outbound_session(["127.0.0.1:1", "inner.test:1"]) as session:
        for host in ("127.0.0.1", "inner.test"):
            with pytest.raises(OutboundRefused):
                async with session.request("GET", f"http://{host}:{port}/"):
                    pass
    assert visits == [port]


async def test_a_name_may_lead_into_a_listed_network(visits: list[str]) -> None:
    # Over http it would have to be listed by name, so this reaches as far as the handshake.
    port = visits[0]
    zone = NameServer(inner=["127.0.0.1"])
    async with outbound_session(["127.0.0.0/8"], resolver=zone) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as error:
            async with session.request("GET", f"https://inner.test:{port}/"):
                pass
        assert not isinstance(error.value.os_error, OutboundRefused)


async def test_a_redirect_is_shown_not_followed(visits: list[str]) -> None:
    port = visits[0]
    async with (
        outbound_session(["127.0.0.1"]) as session,
        session.request("GET", f"http://127.0.0.1:{port}/redirect") as response,
    ):
        assert response.status == 302
    assert visits == [port, "/redirect"]


async def test_a_body_is_read_up_to_its_bound(visits: list[str]) -> None:
    async with outbound_session(["127.0.0.1"]) as session:
        address = f"http://127.0.0.1:{visits[0]}/"
        async with session.request("GET", address) as response:
            assert len(await read_bounded(response, 100)) == 100
        async with session.request("GET", address) as response:
            with pytest.raises(ResponseTooLarge):
                await read_bounded(response, 99)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "push",
        "//push.example.org/",
        "https://",
        "https:///path",
        "ftp://push.example.org/",
        "file:///etc/passwd",
        "unix:///run/socket",
        "http://push.example.org/",
        "https://user@push.example.org/",
        "https://user:secret@push.example.org/",
        "https://push.example.org:99999/",
        "https://[::1/",
        "https://" + "a" * 70 + "..example/",
        "https://\ud800.example/",
    ],
)
async def test_a_url_that_is_no_public_https_url_is_refused(url: str) -> None:
    async with outbound_session() as session:
        with pytest.raises(OutboundRefused):
            async with session.request("GET", url):
                pass


@given(st.text(max_size=60) | st.text("https:/[]@.%12af", max_size=40).map("https://".__add__))
def test_no_text_breaks_the_gate(url: str) -> None:
    async def check() -> None:
        async with outbound_session() as session:
            with suppress(OutboundRefused):
                session.check_url(url)

    asyncio.run(check())


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "64:ff9b::5db8:d70e"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_the_same_in_every_dress(address: object) -> None:
    for dress in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(ip_address(dress)) == is_public(ip_address(str(address)))


@pytest.mark.parametrize("entry", ["", "http://inner.test", "inner.test/path", "a b", "*", "*.*"])
def test_an_entry_that_means_nothing_is_told_to_the_administrator(entry: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        AllowList.parse([entry])
    assert error.value.key == "outbound.allow"
