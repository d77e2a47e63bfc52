"""Looking up names whose servers never answer holds up nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

from yizhan_config.outbound import SystemResolver

if TYPE_CHECKING:
    import pytest

STRANGERS = 150
"""So many servers of which nothing is known are asked for their keys at once."""


async def test_a_name_is_found_while_others_are_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: str, *args: Any) -> Any:
        if host.endswith(".silent.test"):
            over.wait(20)
            raise socket.gaierror
        return real(host, *args)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = SystemResolver()
    silent = [resolver.resolve(f"{number}.silent.test", 443) for number in range(STRANGERS)]
    waiting = asyncio.gather(*silent, return_exceptions=True)
    await asyncio.sleep(0)  # until all of them have begun
    async with asyncio.timeout(5):
        found = await resolver.resolve("127.0.0.1", 443)
    assert [each["host"] for each in found] == ["127.0.0.1"]
    over.set()
    await waiting
    await resolver.close()
