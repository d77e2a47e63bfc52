"""The bots as a process: killed at any moment, asked on the command line, looked at by HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bots_runner.story import PASSWORD, bodies, cross_signs
from yizhan_bots.matrix.cross_signing import fingerprint
from yizhan_testing.synapse import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bots_runner.story import Office

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that is dead afterwards."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def output(*arguments: str) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error of a Python process."""
    async with process(*arguments) as running:
        out, err = await running.communicate()
        return running.returncode, out.decode(), err.decode()


async def test_killed_again_and_again_it_answers_every_message_exactly_once(
    office: Office,
) -> None:
    user_id = await office.account("bot")
    data = office.folder / "killed"
    data.mkdir()
    command = ("-m", "bots_runner.answering_bot", office.homeserver.base_url, user_id, PASSWORD)
    alice = await office.person("alice")
    chance = random.Random(8)
    async with process(*command, str(data)) as running:
        assert running.stdout is not None
        assert await running.stdout.readline() == b"ready\n"
        room = await alice.creates_room(invite=[user_id])
        await alice.sees_member(room, user_id)
        await alice.says(room, "hello")
        await alice.reads("done: hello (verified)")

    said = [f"message {number}" for number in range(24)]
    for at in range(0, len(said), 4):
        async with process(*command, str(data)):
            for body in said[at : at + 4]:
                await alice.says(room, body)
            # Any moment will do: starting, syncing, deciding, sending.
            await asyncio.sleep(chance.uniform(0.0, 2.5))

    async with process(*command, str(data)):
        for body in said:
            await alice.reads(f"done: {body} (verified)")
        await alice.says(room, "the end")
        await alice.reads("done: the end (verified)")
    answers = [body for body in bodies(alice) if body.startswith("done: message")]
    assert sorted(answers) == sorted(f"done: {body} (verified)" for body in said)


async def test_the_program_serves_its_pages_and_takes_the_administrators_orders(
    office: Office,
) -> None:
    user_id = await office.account("bot")
    alice = await office.person("alice", signed=False)
    identity = await cross_signs(alice)
    data, port = office.folder / "data", free_port()
    files = write_installation(office, data, user_id, port)

    status, _, err = await output("-m", "yizhan_bots", *files, "trust", alice.user_id)
    assert (status, "yizhan up" in err) == (1, False)
    async with process("-m", "yizhan_bots", *files, "run") as running:
        health = await answers(f"http://127.0.0.1:{port}/health", running)
        async with aiohttp.ClientSession() as session:
            page = await (await session.get(f"http://127.0.0.1:{port}/office/")).text()
        assert user_id in page
        assert health["fingerprint"] in page

        _, out, _ = await output("-m", "yizhan_bots", *files, "fingerprint")
        assert out.strip() == health["fingerprint"]
        trust = ("-m", "yizhan_bots", *files, "trust", alice.user_id)
        status, out, _ = await output(*trust, "AAAA", "AAAA")
        assert status == 1
        assert fingerprint(identity.master_key) in out
        status, out, _ = await output(*trust, identity.master_key[:8])
        assert status == 0
        assert fingerprint(identity.master_key) in out
        status, _, err = await output("-m", "yizhan_bots", *files, "run")
        assert status == 78
        assert str(data) in err

        running.send_signal(signal.SIGTERM)
        await running.communicate()
        assert running.returncode == 0


def write_installation(office: Office, data: Path, user_id: str, port: int) -> tuple[str, ...]:
    """Write the configuration and the bot's password; returns the command's options."""
    secrets = data / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    password = secrets / "bots.password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    config = data / "yizhan.toml"
    config.write_text(
        f"""
        server_name = "{office.homeserver.server_name}"
        [bots]
        listen = "127.0.0.1:{port}"
        homeserver_url = "{office.homeserver.base_url}"
        user_id = "{user_id}"
        """
    )
    return "--config", str(config), "--data", str(data)


async def answers(url: str, running: asyncio.subprocess.Process) -> dict[str, str]:
    """The JSON of the page, as soon as it is served."""
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    return dict(json.loads(await response.text()))
            except aiohttp.ClientConnectionError:
                assert running.returncode is None, (await running.communicate())[1].decode()
                await asyncio.sleep(0.05)  # as whoever supervises it does
