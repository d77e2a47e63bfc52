"""A gateway, a fake push service beside it, and a browser; they speak real HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from yizhan_testing.push_gateway import Gateway, run_gateway
from yizhan_testing.push_service import PushService, Subscription, run_push_service


@pytest.fixture
async def push_service() -> AsyncIterator[PushService]:
    async with run_push_service() as service:
        yield service
        assert service.refusals == []


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway that may reach the loopback."""
    async with run_gateway(tmp_path, outbound_allow=("127.0.0.1",)) as opened:
        yield opened


@pytest.fixture
def browser(gateway: Gateway, push_service: PushService) -> Subscription:
    """A browser that subscribed with the gateway's VAPID key."""
    return push_service.subscribe(gateway.vapid)
