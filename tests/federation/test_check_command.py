"""`yizhan federation check NAME` says how far this server gets with another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from yizhan_config import installation
from yizhan_config.settings import load
from yizhan_server.federation_check import check as check_server
from yizhan_server.federation_client.client import NameService
from yizhan_server.federation_client.srv import SrvLookup
from yizhan_server.federation_command import main
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.signing import SigningKey
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.departments import free_sockets
from yizhan_testing.homeserver import homeserver_in_process
from yizhan_testing.name_server import Addresses, DnsServer
from yizhan_testing.peer import Peer, federating, open_peer

KEYS = "/_matrix/key/v2/server"
VERSION = "/_matrix/federation/v1/version"
DIRECTORY = "/_matrix/federation/v1/query/directory"
Check = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Check:
    """Run the command for a new installation; gives its status and what it said."""

    async def run(
        name: str,
        settings: dict[str, Any],
        language: str = "en_US.UTF-8",
        names: NameService | None = None,
    ) -> tuple[int, str, str]:
        monkeypatch.setenv("LC_ALL", language)
        data = tmp_path / "data"
        if not data.exists():
            installation.create(data, "a.test", settings)
        # It has an event loop of its own.
        if names is None:
            status = await asyncio.to_thread(main, ["--data", str(data), "check", name])
        else:
            status = await asyncio.to_thread(
                check_server, ServerName(name), load(None, data), names
            )
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


async def test_a_server_that_answers_is_told_step_by_step(
    check: Check, authority: CertificateAuthority, peer: Peer
) -> None:
    peer.answers["GET", VERSION] = {"server": {"name": "Peer", "version": "7"}}
    settings = federating(authority, peer)

    status, said, wrong = await check(peer.name, settings)
    assert (status, wrong) == (0, "")
    assert f"at {peer.name}, with a certificate for 127.0.0.1" in said
    assert "lets    this server in" in said
    assert "Peer 7" in said
    assert peer.key.key_id in said
    assert "Note" not in said

    assert "签名正确" in (await check(peer.name, settings, "zh_CN.UTF-8"))[1]


async def test_a_server_may_be_checked_before_it_is_let_in(
    check: Check, authority: CertificateAuthority, peer: Peer
) -> None:
    peer.answers["GET", VERSION] = {}
    status, said, wrong = await check(peer.name, federating(authority))
    assert (status, wrong) == (0, "")
    assert f"{peer.name} is not in federation.allow" in said


# region faults


class Faults:
    """Runs the check in both languages against something that is broken."""

    def __init__(self, check: Check) -> None:
        self._check = check

    async def named(
        self, name: str, settings: dict[str, Any], zh: str, en: str, **more: Any
    ) -> None:
        """Assert that the check fails, and that each language says what is wrong."""
        for words, language in ((zh, "zh_CN.UTF-8"), (en, "en_US.UTF-8")):
            status, said, wrong = await self._check(name, settings, language, **more)
            assert status == 69, said
            assert words in wrong, (words, wrong)
            assert wrong.startswith(("失败：", "Failed: "))


@pytest.fixture
def faults(check: Check) -> Faults:
    return Faults(check)


async def test_a_name_that_nobody_knows_is_told(
    faults: Faults, authority: CertificateAuthority
) -> None:
    async with DnsServer.open() as dns:
        names = NameService(Addresses(), SrvLookup(dns.resolver()))
        await faults.named(
            "nowhere.test", federating(authority), "域名解析（DNS）失败", "DNS: no address",
            names=names,
        )  # fmt: skip


async def test_a_certificate_by_an_unknown_authority_is_told(
    faults: Faults, authority: CertificateAuthority, peer: Peer
) -> None:
    settings = {**federating(authority, peer), "federation.trusted_ca_files": []}
    await faults.named(
        peer.name, settings, "CA 不对", "an authority (CA) that this server does not"
    )


async def test_an_expired_certificate_is_told(
    faults: Faults, authority: CertificateAuthority
) -> None:
    async with open_peer(authority, expired=True) as peer:
        await faults.named(
            peer.name, federating(authority, peer), "证书已过期", "certificate has expired"
        )


async def test_a_certificate_for_another_name_is_told(
    faults: Faults, authority: CertificateAuthority
) -> None:
    async with open_peer(authority, certified="other.test") as peer:
        await faults.named(
            peer.name, federating(authority, peer), "属于别的名称", "a certificate for another name"
        )


async def test_a_key_that_is_not_the_servers_own_is_told(
    faults: Faults, authority: CertificateAuthority, peer: Peer
) -> None:
    peer.answers["GET", VERSION] = {}
    settings = federating(authority, peer)
    published = peer.published()
    # The published key has been replaced, as after a new installation behind an old proxy.
    published["verify_keys"] = {
        peer.key.key_id: {"key": SigningKey.generate("p1").verify_key.to_base64()}
    }
    peer.answers["GET", KEYS] = published
    await faults.named(peer.name, settings, "公布的密钥不对", "publishes the wrong key")
    peer.answers["GET", KEYS] = {**peer.published(), "server_name": "other.test"}
    await faults.named(peer.name, settings, "自称 other.test", "it calls itself other.test")


@pytest.mark.parametrize("minutes", [-90, 5])
async def test_a_clock_that_is_wrong_is_told(
    faults: Faults, authority: CertificateAuthority, peer: Peer, minutes: int
) -> None:
    async def version(_: web.BaseRequest) -> web.StreamResponse:
        date = formatdate(time.time() + minutes * 60, usegmt=True)
        return web.json_response({"server": {}}, headers={"Date": date})

    peer.answers["GET", VERSION] = version
    await faults.named(
        peer.name, federating(authority, peer),
        "两台服务器的时钟相差", "The clocks differ by",
    )  # fmt: skip


async def test_keys_whose_time_is_over_are_told(
    faults: Faults, authority: CertificateAuthority, peer: Peer
) -> None:
    peer.answers["GET", VERSION] = {}
    two_days_ago_ms = int(time.time() * 1000) - 2 * 86_400_000
    peer.answers["GET", KEYS] = peer.published(now_ms=two_days_ago_ms)
    await faults.named(
        peer.name, federating(authority, peer), "按本服务器的时钟已过期", "over by the clock"
    )


async def test_a_closed_port_is_told(faults: Faults, authority: CertificateAuthority) -> None:
    (bound,) = free_sockets(1)  # bound, but nobody listens
    with bound:
        name = f"127.0.0.1:{bound.getsockname()[1]}"
        await faults.named(
            name, federating(authority), "没有程序在监听", "Nothing listens at this port"
        )


async def test_a_port_without_tls_is_told(
    faults: Faults, authority: CertificateAuthority, tmp_path: Path
) -> None:
    async with homeserver_in_process(tmp_path, "sqlite") as plain:
        name = plain.base_url.removeprefix("http://")
        await faults.named(name, federating(authority), "但不是 TLS", "but not with TLS")


async def test_something_that_is_no_matrix_server_is_told(
    faults: Faults, authority: CertificateAuthority, peer: Peer
) -> None:
    async def page(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<h1>Welcome</h1>")

    for answer in (page, lambda _: _not_found()):
        peer.answers["GET", VERSION] = answer
        await faults.named(
            peer.name, federating(authority, peer), "不像 Matrix 服务器", "not like a Matrix server"
        )
    peer.is_down = True
    await faults.named(peer.name, federating(authority, peer), "暂时不能应答", "cannot answer now")


async def _not_found() -> web.StreamResponse:
    return web.Response(status=404)


async def test_a_server_that_does_not_let_this_one_in_is_told(
    faults: Faults, authority: CertificateAuthority, peer: Peer
) -> None:
    peer.answers["GET", VERSION] = {}
    for status, zh, en in (
        (403, "请对方把 a.test 写入其 federation.allow", "add a.test to its federation.allow"),
        (401, "不认可本服务器的签名", "does not accept this server's signature"),
    ):

        async def refuse(_: web.BaseRequest, status: int = status) -> web.StreamResponse:
            return web.json_response({"errcode": "M_FORBIDDEN", "error": "No"}, status=status)

        peer.answers["GET", DIRECTORY] = refuse
        await faults.named(peer.name, federating(authority, peer), zh, en)


@pytest.mark.parametrize("broken", [b"{}", b"<html>", b'{"m.server": "a b"}'])
async def test_a_broken_well_known_file_is_told_beside_what_follows_from_it(
    check: Check, faults: Faults, authority: CertificateAuthority, broken: bytes
) -> None:
    async def file(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=broken)

    async with DnsServer.open() as dns, open_peer(authority, certified="b.test") as domain:
        domain.answers["GET", "/.well-known/matrix/server"] = file
        addresses = Addresses()
        addresses.zone["b.test"] = ["127.0.0.1"]
        port = int(domain.name.partition(":")[2])
        names = NameService(addresses, SrvLookup(dns.resolver()), port)
        settings = federating(authority)
        # Nothing is at port 8448 either, which is where the other side does not serve.
        zh, en = "没有程序在监听", "Nothing listens"
        await faults.named("b.test", settings, zh, en, names=names)
        _, said, _ = await check("b.test", settings, "en_US.UTF-8", names=names)
        assert "https://b.test/.well-known/matrix/server is of no use (no m.server)" in said
        domain.answers.clear()
        _, said, _ = await check("b.test", settings, "en_US.UTF-8", names=names)
        assert "well-known" not in said  # it need not have one


# endregion


@pytest.mark.parametrize("name", ["a b", "@li:a.test"])
async def test_what_is_no_server_name_is_told_as_such(check: Check, name: str) -> None:
    status, _, wrong = await check(name, {})
    assert status == 64
    assert "no server name" in wrong
