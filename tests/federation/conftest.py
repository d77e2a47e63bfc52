"""A homeserver that speaks with one peer, on each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import DIALECTS, Dialect
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.later_clock import LaterClock
from yizhan_testing.peer import Peer, federating, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    kind: Dialect = request.param
    return kind


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def clock() -> LaterClock:
    return LaterClock()


@pytest_asyncio.fixture
async def peer(authority: CertificateAuthority) -> AsyncIterator[Peer]:
    async with open_peer(authority) as server:
        yield server


@pytest_asyncio.fixture
async def stranger(authority: CertificateAuthority) -> AsyncIterator[Peer]:
    """A server that the homeserver does not list, unless it is `homeserver_of_both`."""
    async with open_peer(authority) as server:
        yield server


@pytest_asyncio.fixture
async def homeserver(
    tmp_path: Path,
    dialect: Dialect,
    authority: CertificateAuthority,
    peer: Peer,
    clock: LaterClock,
) -> AsyncIterator[HomeserverInProcess]:
    settings = federating(authority, peer)
    async with homeserver_in_process(tmp_path, dialect, 1, clock, **settings) as server:
        yield server


@pytest_asyncio.fixture
async def homeserver_of_both(
    tmp_path: Path,
    dialect: Dialect,
    authority: CertificateAuthority,
    peer: Peer,
    stranger: Peer,
    clock: LaterClock,
) -> AsyncIterator[HomeserverInProcess]:
    """One that speaks with the peer and with the stranger."""
    settings = federating(authority, peer, stranger)
    async with homeserver_in_process(tmp_path, dialect, 1, clock, **settings) as server:
        yield server


@pytest_asyncio.fixture
async def alice(homeserver: HomeserverInProcess) -> Person:
    return await homeserver.person("alice")


@pytest_asyncio.fixture
async def bob(homeserver: HomeserverInProcess) -> Person:
    return await homeserver.person("bob")
