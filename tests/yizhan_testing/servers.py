"""Which homeserver the stories with real clients run against.

Ours by default; `YIZHAN_TEST_SERVER=synapse` takes a Synapse, to prove the stories themselves: one
that fails there too is a fault of the story or of the client.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from pathlib import Path


class RunningHomeserver(Protocol):
    """What a story needs of a homeserver, whoever wrote it."""

    base_url: str
    server_name: str

    async def register(self, localpart: str, password: str, admin: bool = False) -> str:
        """Make an account; returns the user id."""

    async def stop(self) -> None:
        """End it in an orderly way."""


async def start_homeserver(folder: Path) -> RunningHomeserver:
    """Start the chosen homeserver with its data in `folder`, and without rate limits."""
    chosen = os.environ.get("YIZHAN_TEST_SERVER", "yizhan")
    # Imported by name: whoever asks for one of them need not have what the other imports.
    if chosen == "synapse":
        server = importlib.import_module("yizhan_testing.synapse").Synapse
    elif chosen == "yizhan":
        server = importlib.import_module("yizhan_testing.homeserver").Homeserver
    else:
        raise ValueError(f"YIZHAN_TEST_SERVER={chosen}: yizhan or synapse")
    return cast("RunningHomeserver", await server.start(folder))
