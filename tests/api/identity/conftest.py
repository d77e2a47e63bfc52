"""A homeserver that may use one identity server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_server.protocol.signing import SigningKey
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.homeserver import HomeserverInProcess, homeserver_in_process
from yizhan_testing.identity_server import IdentityServer, identity_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest_asyncio.fixture
async def directory(authority: CertificateAuthority) -> AsyncIterator[IdentityServer]:
    async with identity_server(authority) as server:
        yield server


@pytest_asyncio.fixture
async def homeserver(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, directory: IdentityServer
) -> AsyncIterator[HomeserverInProcess]:
    allowed = {
        "identity.allow": [directory.name],
        "outbound.allow": ["127.0.0.1"],
        "outbound.trusted_ca_files": [str(authority.file)],
    }
    async with homeserver_in_process(tmp_path / "server", dialect, 1, **allowed) as server:
        key = SigningKey.parse((tmp_path / "server" / "secrets" / "signing.key").read_text())
        directory.homeserver_key = key.verify_key
        yield server
