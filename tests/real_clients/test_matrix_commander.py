"""matrix-commander, the client for scripts and consoles, in an encrypted room.

It knows the ids of rooms up to version 11 only: those of version 12 have no server name.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.environments import environment_with
from yizhan_testing.town import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.servers import RunningHomeserver
    from yizhan_testing.town import Town

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]


class Console:
    """A folder in which somebody calls the program; its session lives there between the calls."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        folder.mkdir()

    async def __call__(self, *words: str) -> str:
        """Call it, and return what it prints; it must end well."""
        process = await asyncio.create_subprocess_exec(
            self._program, *words, cwd=self._folder,
            env={**os.environ, "HOME": str(self._folder)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, complaints = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, complaints.decode()
        return output.decode()


async def test_a_console_signs_in_sends_listens_and_uploads(
    homeserver: RunningHomeserver, town: Town, tmp_path: Path
) -> None:
    python = await asyncio.to_thread(
        environment_with, "matrix-commander==8.0.6", "matrix-nio[e2e]==0.26.0"
    )
    console = Console(python.parent / "matrix-commander", tmp_path / "console")
    bob = await town.person("bob")
    alice = await town.js(await town.person("alice"), device_name="desk")
    room = await alice.creates_room(invite=[bob], options={"room_version": "11"})

    await console(
        "--login", "password", "--homeserver", homeserver.base_url, "--user-login", bob,
        "--password", PASSWORD, "--device", "console", "--room-default", room,
    )  # fmt: skip
    assert (await console("--whoami")).strip() == bob
    await console("--room-join", room)
    await alice.sees_member(room, bob)
    assert (await console("--joined-rooms")).strip() == room
    assert "console" in await console("--devices")

    await console("--message", "备份完成")
    report = await alice.reads("备份完成", room=room, sender=bob)
    assert report.encrypted
    await alice.says(room, "thank you, console")
    assert "thank you, console" in await console("--listen", "once")

    log = tmp_path / "backup.log"
    log.write_text("0 errors")
    await console("--file", str(log))
    sent = await alice.reads("backup.log", room=room, sender=bob)
    await alice.saves_file(sent.event_id, tmp_path / "saved.log")
    assert (tmp_path / "saved.log").read_text() == "0 errors"
    uri = (await console("--upload", str(log), "--plain")).split()[0]
    copy = tmp_path / "copy.log"
    await console("--download", uri, "--plain", "--file-name", str(copy))
    assert copy.read_text() == "0 errors"
    await console("--logout", "me")
