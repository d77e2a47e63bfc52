"""`yizhan federation check NAME` says how far this server gets with another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from yizhan_config import installation
from yizhan_server.federation_command import main
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.peer import Peer, federating

VERSION = "/_matrix/federation/v1/version"
Check = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Check:
    """Run the command for a new installation; gives its status and what it said."""

    async def run(
        name: str, settings: dict[str, Any], language: str = "en_US.UTF-8"
    ) -> tuple[int, str, str]:
        monkeypatch.setenv("LC_ALL", language)
        data = tmp_path / "data"
        if not data.exists():
            installation.create(data, "a.test", settings)
        # It has an event loop of its own.
        status = await asyncio.to_thread(main, ["--data", str(data), "check", name])
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


async def test_a_certificate_that_is_not_trusted_is_told_with_the_reason(
    check: Check, authority: CertificateAuthority, peer: Peer
) -> None:
    settings = {**federating(authority, peer), "federation.trusted_ca_files": []}
    status, _, wrong = await check(peer.name, settings)
    assert status == 69
    assert "CERTIFICATE_VERIFY_FAILED" in wrong


async def test_keys_that_do_not_sign_themselves_are_told(
    check: Check, authority: CertificateAuthority, peer: Peer
) -> None:
    peer.answers["GET", VERSION] = {}
    peer.answers["GET", "/_matrix/key/v2/server"] = {**peer.published(), "valid_until_ts": 1}
    status, _, wrong = await check(peer.name, federating(authority, peer))
    assert status == 69
    assert "Failed" in wrong


@pytest.mark.parametrize("name", ["a b", "@li:a.test"])
async def test_what_is_no_server_name_is_told_as_such(check: Check, name: str) -> None:
    status, _, wrong = await check(name, {})
    assert status == 64
    assert "no server name" in wrong
