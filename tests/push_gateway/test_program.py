"""The program itself: it starts, says what is wrong with its surroundings, and stops."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from yizhan_testing.push_gateway import Gateway
from yizhan_testing.push_service import PushService


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def started(data: Path, port: int) -> AsyncIterator[Process]:
    config = data / "yizhan.toml"
    config.write_text(
        'server_name = "example.org"\n[push_gateway]\n'
        f'listen = "127.0.0.1:{port}"\noutbound_allow = ["127.0.0.1"]\n',
        encoding="utf-8",
    )
    arguments = ("-m", "yizhan_bridges", "--config", str(config), "--data", str(data))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.slow
async def test_it_delivers_until_it_is_told_to_stop(
    tmp_path: Path, push_service: PushService
) -> None:
    port = free_port()
    async with started(tmp_path, port) as process, aiohttp.ClientSession() as http:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"listening" not in await process.stderr.readline():
                assert process.returncode is None
        url = f"http://127.0.0.1:{port}"
        async with http.get(f"{url}/_yizhan/push/v1/vapid") as response:
            vapid = (await response.json())["vapid"]
        browser = push_service.subscribe(vapid)
        assert await Gateway(url, http, vapid).notify(browser.device()) == (200, {"rejected": []})
        assert (await browser.next_message()).payload["event_id"]

        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    assert (tmp_path / "secrets" / "vapid.pem").exists()


@pytest.mark.slow
async def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        async with started(tmp_path, holder.getsockname()[1]) as process:
            async with asyncio.timeout(20):
                _, errors = await process.communicate()
    assert process.returncode == 78
    assert b"push_gateway.listen" in errors
    assert b"Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["exposed", "garbage"])
async def test_a_key_that_cannot_be_trusted_is_one_sentence(tmp_path: Path, spoil: str) -> None:
    key = tmp_path / "secrets" / "vapid.pem"
    key.parent.mkdir()
    key.write_text("not a key", encoding="utf-8")
    key.chmod(0o644 if spoil == "exposed" else 0o600)
    async with started(tmp_path, free_port()) as process:
        async with asyncio.timeout(20):
            _, errors = await process.communicate()
    assert process.returncode == 78
    assert b"vapid.pem" in errors
    assert b"Traceback" not in errors
