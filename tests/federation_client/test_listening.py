"""With a certificate, the homeserver serves everything at port 443 and at port 8448."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest

from yizhan_server.serving import running
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.homeserver import settings_for
from yizhan_testing.stand_ins import free_ports


@pytest.mark.parametrize("listener", ["tls", "federation"])
async def test_clients_and_servers_are_served_at_both_ports(tmp_path: Path, listener: str) -> None:
    authority = CertificateAuthority(tmp_path)
    certificate, key = authority.issue("test.example", "127.0.0.1")
    tls, federation, bots = free_ports(3)
    settings = settings_for(
        tmp_path,
        **{
            "public.client_baseurl": "https://im.test.example",
            "tls.certificate": certificate,
            "tls.key": key,
            "listen.tls": f"127.0.0.1:{tls}",
            "listen.federation": f"127.0.0.1:{federation}",
            "bots.listen": f"127.0.0.1:{bots}",
        },
    )
    port = {"tls": tls, "federation": federation}[listener]
    context = ssl.create_default_context(cafile=authority.file)
    connector = aiohttp.TCPConnector(ssl=context)
    async with running(settings), aiohttp.ClientSession(connector=connector) as http:
        answers = {}
        for path in ("/_matrix/client/versions", "/.well-known/matrix/server", "/office/health"):
            async with http.get(f"https://127.0.0.1:{port}{path}") as answer:
                answers[path] = (answer.status, await answer.text())
        assert answers["/_matrix/client/versions"][0] == 200
        assert "im.test.example:443" in answers["/.well-known/matrix/server"][1]
        assert answers["/office/health"][0] == 502  # forwarded to the bots, which do not run here
