"""A bridge, and a homeserver that knows it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from yizhan_testing.appservice import Bridge, running_bridge
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect


@dataclass
class Scene:
    """A homeserver, the bridge that it knows, and Alice."""

    homeserver: HomeserverInProcess
    bridge: Bridge
    bot: Person
    alice: Person


@asynccontextmanager
async def bridged(
    folder: Path, dialect: Dialect, settings: dict[str, Any] | None = None, **registration: Any
) -> AsyncIterator[Scene]:
    """Run both; `registration` replaces keys of the registration file."""
    async with running_bridge() as bridge:
        file = bridge.writes_registration(folder, **registration)
        overrides = {"appservices.registrations": [str(file)], **(settings or {})}
        async with homeserver_in_process(folder, dialect, **overrides) as homeserver:
            alice = await homeserver.person("alice")
            yield Scene(homeserver, bridge, bridge.bot(homeserver), alice)


@pytest_asyncio.fixture
async def scene(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Scene]:
    async with bridged(tmp_path, dialect) as here:
        yield here


@pytest_asyncio.fixture
async def full_scene(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Scene]:
    """With a bridge that wants ephemeral events, to-device messages and device lists."""
    extensions: dict[str, Any] = {"receive_ephemeral": True, "org.matrix.msc3202": True}
    async with bridged(tmp_path, dialect, **extensions) as here:
        yield here
