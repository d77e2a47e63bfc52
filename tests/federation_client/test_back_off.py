"""A server that does not answer is left alone for a growing time, until it gives a sign of life."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from yizhan_config.settings import Federation
from yizhan_server.federation_client import destinations
from yizhan_server.federation_client.client import open_federation_client
from yizhan_server.federation_client.errors import RemoteRefused, RemoteUnavailable
from yizhan_server.protocol.identifiers import ServerName, UserID
from yizhan_testing.databases import DIALECTS, Dialect
from yizhan_testing.remote_servers import OWN, Network, free_address, open_network

A, B = ServerName("a.test:7300"), ServerName("b.test:7300")
LI = UserID("@li:a.test")
PROFILE = "/_matrix/federation/v1/query/profile"


async def fails(network: Network, server: ServerName = A) -> None:
    with pytest.raises(RemoteUnavailable):
        await network.client.queries.profile(server, LI)


async def test_the_time_doubles_up_to_an_hour(network: Network) -> None:
    network.addresses.zone["a.test"] = [free_address()]
    destinations = network.client.destinations
    waits = []
    for _ in range(11):
        await fails(network)
        waits.append((destinations.retry_ms(A) - network.clock.now_ms()) / 1000)
        network.clock.now = destinations.retry_ms(A)
    doubled = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    for wait, longest in zip(waits, doubled, strict=True):
        assert longest * 0.8 <= wait <= longest


async def test_a_server_that_is_left_alone_is_not_asked_unless_somebody_waits(
    network: Network,
) -> None:
    there = await network.serves("a.test", port=7300)
    there.answers("GET", PROFILE, b"", status=502)
    await fails(network)
    await fails(network)
    assert len(there.seen) == 1

    await network.asks(A)
    assert network.client.destinations.retry_ms(A) == 0
    await fails(network)
    assert len(there.seen) == 3


async def test_requests_that_fail_together_count_once(network: Network) -> None:
    network.addresses.zone["a.test"] = [free_address()]
    await asyncio.gather(*(fails(network) for _ in range(10)))
    left = network.client.destinations.retry_ms(A) - network.clock.now_ms()
    assert 8_000 <= left <= 10_000


async def test_a_server_that_asks_for_time_gets_it(network: Network) -> None:
    there = await network.serves("a.test", port=7300)
    asked: list[tuple[dict[str, int], dict[str, str], int]] = [
        ({"retry_after_ms": 95_000}, {}, 95),
        ({}, {"Retry-After": "120"}, 120),
        ({"retry_after_ms": 10**15}, {}, 3600),
        ({"retry_after_ms": -1}, {"Retry-After": "-5"}, 8),
    ]
    for body, headers, seconds in asked:
        error = {"errcode": "M_LIMIT_EXCEEDED", **body}
        there.answers("GET", PROFILE, error, status=429, headers=headers)
        with pytest.raises(RemoteRefused, match="M_LIMIT_EXCEEDED"):
            await network.client.queries.profile(A, LI)
        left = network.client.destinations.retry_ms(A) - network.clock.now_ms()
        assert seconds * 1000 <= left <= max(seconds * 1000, 10_000)
        network.client.destinations.note_alive(A)


async def test_who_waits_for_a_server_goes_on_at_its_first_sign_of_life(network: Network) -> None:
    network.addresses.zone["a.test"] = [free_address()]
    destinations = network.client.destinations
    await destinations.wait_until_due(A)  # nothing is known against it
    await fails(network)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(destinations.wait_until_due(A))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        destinations.note_alive(A)
    assert destinations.failing_since_ms(A) is None


async def test_who_waits_for_a_server_goes_on_when_its_time_has_come(network: Network) -> None:
    network.addresses.zone["a.test"] = [free_address()]
    destinations = network.client.destinations
    await fails(network)
    network.clock.now = destinations.retry_ms(A) - 50
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(destinations.wait_until_due(A))
        await asyncio.sleep(0.01)
        network.clock.passes(1)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_long_failure_outlives_a_restart_and_an_answer_ends_it_for_good(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with open_network(tmp_path, dialect) as network:
        there = await network.serves("a.test", port=7300)
        network.addresses.zone["b.test"] = [free_address()]
        there.answers("GET", PROFILE, b"", status=502)
        started_ms = network.clock.now_ms()
        for _ in range(5):
            await fails(network, A)
            await fails(network, B)
            network.clock.now = max(map(network.client.destinations.retry_ms, (A, B)))

        async def after_restart() -> dict[ServerName, int | None]:
            async with open_federation_client(
                Federation(), OWN, network.key, network.db, network.clock, network.background
            ) as client:
                return {server: client.destinations.failing_since_ms(server) for server in (A, B)}

        assert await after_restart() == {A: started_ms, B: started_ms}
        network.client.destinations.note_alive(A)
        await network.background_work()
        assert await after_restart() == {A: None, B: started_ms}


async def test_a_short_failure_is_not_written_down(network: Network) -> None:
    network.addresses.zone["a.test"] = [free_address()]
    await fails(network)
    rows = await network.db.rows("SELECT server_name FROM failing_destination")
    assert rows == []


async def test_a_server_that_nobody_has_tried_for_a_month_is_forgotten(network: Network) -> None:
    network.addresses.zone["a.test"] = [free_address()]
    for _ in range(4):
        await fails(network)
        network.clock.now = network.client.destinations.retry_ms(A)

    async def kept_after(days: int) -> list[tuple[object, ...]]:
        network.clock.passes(days * 86_400)
        await network.client.destinations.prepare()
        return await network.db.rows("SELECT server_name FROM failing_destination")

    assert await kept_after(29) == [(A,)]
    assert await kept_after(2) == []


async def test_only_so_many_servers_that_do_not_exist_are_remembered(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "MOST", 3)
    network.addresses.zone["a.test"] = [free_address()]
    for _ in range(4):
        await fails(network)
        network.clock.now = network.client.destinations.retry_ms(A)
    for number in range(2):
        await fails(network, ServerName(f"nowhere{number}.test"))
    await fails(network)
    for number in range(2, 4):
        await fails(network, ServerName(f"nowhere{number}.test"))
    assert {*network.client.destinations.failing()} == {A, "nowhere2.test", "nowhere3.test"}
    await fails(network, ServerName("nowhere4.test"))
    await fails(network, ServerName("nowhere5.test"))
    await fails(network, ServerName("nowhere6.test"))
    await network.background_work()
    assert A not in network.client.destinations.failing()
    assert await network.db.rows("SELECT server_name FROM failing_destination") == []
