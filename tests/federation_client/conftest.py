"""A network of other servers, and our client in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.remote_servers import Network, open_network


@pytest.fixture(autouse=True, scope="session")
def system_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CertificateAuthority]:
    """The only authority that the system trusts; the true list takes 90 ms to read each time."""
    authority = CertificateAuthority(tmp_path_factory.mktemp("system"), "system authority")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority.file))
        patch.setenv("SSL_CERT_DIR", str(authority.file.parent))
        yield authority


@pytest_asyncio.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with open_network(tmp_path) as opened:
        yield opened
