"""nheko, a graphical Matrix client of Debian, in the hands of a person before a `Screen`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from graphical.screen import Screen

WIDTH, HEIGHT = 1100, 750
"""Of its window, which fills the screen: there is no window manager."""

# Without a secret service it would end; what moves cannot be clicked on; bubbles tell whose message
# is whose.
_SETTINGS = f"""\
[General]
run_without_secure_secrets_service=true

[window]
width={WIDTH}
height={HEIGHT}

[user]
bubbles_enabled=true
reduced_motion=true
sidebar\\room_list_width=200
"""
# What has a sign and no word: it cannot be found by reading.
_PLUS = (66, HEIGHT - 20)
# Below the list's few rooms: the pointer there makes neither a tooltip nor buttons appear.
_EMPTY_PLACE = (130, HEIGHT - 150)


def missing() -> list[str]:
    """Name what this machine lacks."""
    return [] if shutil.which("nheko") else ["nheko"]


class Nheko:
    """A window that nobody has signed in to yet."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    async def signs_in(self, base_url: str, user_id: str, password: str) -> None:
        """Sign in as a person does who knows the server's address."""
        screen = self._screen
        await screen.shows("Welcome to Nheko")
        await screen.clicks("LOGIN")
        await screen.clicks("Matrix ID")
        await screen.types(user_id)
        await screen.shows(user_id)
        await screen.presses("Tab")  # it looks for the server, and asks when it finds none
        await screen.moves_pointer(*_EMPTY_PLACE)
        x, y = await screen.finds("Homeserver address")
        await screen.types(password)
        await screen.clicks_at(x, y + 24)
        await screen.presses("ctrl+a")
        await screen.types(base_url)
        await screen.presses("Tab")
        await screen.moves_pointer(*_EMPTY_PLACE)
        await screen.clicks("LOGIN")

    async def sets_up_encryption(self) -> None:
        """Make cross-signing keys, secret storage and key backup, as it proposes."""
        screen = self._screen
        await screen.shows("Setup Encryption")
        await screen.clicks("OK")
        await screen.shows("This is your recovery key")
        await screen.clicks("OK")

    async def starts_direct_chat(self, user_id: str) -> None:
        """Make an encrypted room with somebody."""
        screen = self._screen
        await screen.shows("No room open")
        await screen.clicks_at(*_PLUS)
        await screen.clicks("Start a direct chat")
        await screen.clicks("User to invite")
        await screen.types(user_id)
        await screen.moves_pointer(*_EMPTY_PLACE)
        await screen.clicks("Start Direct Chat")
        await screen.clicks("Yes")

    async def opens_room(self, name: str) -> None:
        """Choose it in the list."""
        await self._screen.clicks(name)
        await self._screen.shows("Write a message")

    async def says(self, text: str) -> None:
        """Send a message in the open room."""
        await self._screen.clicks("Write a message")
        await self._screen.pastes(text)
        await self._screen.presses("Return")
        await self._screen.moves_pointer(*_EMPTY_PLACE)


@asynccontextmanager
async def open_nheko(screen: Screen, home: Path) -> AsyncIterator[Nheko]:
    """Start it as somebody who never used it, with everything that it keeps in `home`."""
    settings = home / "config" / "nheko" / "nheko.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(_SETTINGS)
    (home / "run").mkdir(mode=0o700)
    environment = {
        **screen.environment,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "TZ": "Asia/Shanghai",
        "QT_QUICK_BACKEND": "software",
        # Not the desktop of whoever runs the tests: no notification there, no secret kept there.
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={home}/none",
    }
    with (home / "nheko.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "nheko",
            # Of one profile there is one window on a machine: a second start would end at once.
            *("--profile", f"test{os.getpid()}"),
            env=environment,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        yield Nheko(screen)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
