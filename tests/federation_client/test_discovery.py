"""Servers are found as the specification's numbered list has it, and show the right certificate.

Spec: server-server API, "Resolving server names".
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from yizhan_server.federation_client import well_known
from yizhan_server.federation_client.errors import RemoteUnavailable
from yizhan_testing.remote_servers import WELL_KNOWN, WELL_KNOWN_PORT, Network, free_address

HOUR = 3600


async def test_an_ip_address_is_taken_as_it_is_with_the_default_port(network: Network) -> None:
    address = free_address()
    there = await network.serves(address, address=address)

    assert await network.asks(address) == address
    assert (there.seen[0].host, there.seen[0].sni) == (address, None)
    assert network.dns.asked == network.addresses.asked == []


async def test_an_ip_address_is_taken_with_the_port_that_it_has(network: Network) -> None:
    address = free_address()
    there = await network.serves(address, address=address, port=7001)

    await network.asks(f"{address}:7001")
    assert there.seen[0].host == f"{address}:7001"


async def test_an_ipv6_address_stands_in_brackets(network: Network) -> None:
    there = await network.serves("::1", address="::1", port=7002)

    await network.asks("[::1]:7002")
    assert (there.seen[0].host, there.seen[0].sni) == ("[::1]:7002", None)


async def test_a_name_with_a_port_is_looked_up_and_asked_there(network: Network) -> None:
    there = await network.serves("a.test", port=7003)

    await network.asks("a.test:7003")
    assert (there.seen[0].host, there.seen[0].sni) == ("a.test:7003", "a.test")
    assert network.dns.asked == []


async def test_a_domain_may_delegate_to_an_ip_address(network: Network) -> None:
    address = free_address()
    there = await network.serves(address, address=address)
    await network.serves_well_known("a.test", {"m.server": address})

    await network.asks("a.test")
    assert (there.seen[0].host, there.seen[0].sni) == (address, None)


async def test_a_domain_may_delegate_to_an_ip_address_and_port(network: Network) -> None:
    address = free_address()
    there = await network.serves(address, address=address, port=7004)
    await network.serves_well_known("a.test", {"m.server": f"{address}:7004"})

    await network.asks("a.test")
    assert there.seen[0].host == f"{address}:7004"


async def test_a_domain_may_delegate_to_a_name_and_port(network: Network) -> None:
    there = await network.serves("matrix.a.test", port=7005)
    await network.serves_well_known("a.test", {"m.server": "matrix.a.test:7005"})

    await network.asks("a.test")
    assert (there.seen[0].host, there.seen[0].sni) == ("matrix.a.test:7005", "matrix.a.test")
    assert network.dns.asked == []


@pytest.mark.parametrize("service", ["_matrix-fed._tcp", "_matrix._tcp"])
async def test_a_delegate_without_a_port_is_found_by_its_srv_record(
    network: Network, service: str
) -> None:
    there = await network.serves("matrix.a.test", port=7006)
    network.addresses.zone["host.test"] = [there.address]
    await network.serves_well_known("a.test", {"m.server": "matrix.a.test"})
    network.dns.records[f"{service}.matrix.a.test"] = ["10 5 7006 host.test."]

    await network.asks("a.test")
    assert (there.seen[0].host, there.seen[0].sni) == ("matrix.a.test", "matrix.a.test")


async def test_a_delegate_without_port_and_record_is_at_the_default_port(network: Network) -> None:
    there = await network.serves("matrix.a.test")
    await network.serves_well_known("a.test", {"m.server": "matrix.a.test"})

    await network.asks("a.test")
    assert (there.seen[0].host, there.seen[0].sni) == ("matrix.a.test", "matrix.a.test")
    assert network.dns.asked == [
        "_matrix-fed._tcp.matrix.a.test",
        "_matrix._tcp.matrix.a.test",
    ]


@pytest.mark.parametrize("service", ["_matrix-fed._tcp", "_matrix._tcp"])
async def test_a_domain_that_does_not_delegate_is_found_by_its_srv_record(
    network: Network, service: str
) -> None:
    there = await network.serves("a.test", port=7007)
    network.addresses.zone["host.test"] = [there.address]
    network.dns.records[f"{service}.a.test"] = ["10 5 7007 host.test."]

    await network.asks("a.test")
    assert (there.seen[0].host, there.seen[0].sni) == ("a.test", "a.test")


async def test_the_registered_service_wins_over_the_deprecated_one(network: Network) -> None:
    await network.serves("a.test", port=7008)
    network.dns.records["_matrix-fed._tcp.a.test"] = ["10 5 7008 a.test."]
    network.dns.records["_matrix._tcp.a.test"] = ["10 5 9 a.test."]

    await network.asks("a.test")
    assert network.dns.asked == ["_matrix-fed._tcp.a.test"]


async def test_a_domain_with_neither_is_at_the_default_port(network: Network) -> None:
    there = await network.serves("a.test")

    await network.asks("a.test")
    assert (there.seen[0].host, there.seen[0].sni) == ("a.test", "a.test")


async def test_a_record_that_cannot_be_looked_up_counts_as_none(network: Network) -> None:
    await network.serves("a.test")
    network.dns.failing = True

    assert await network.asks("a.test") == "a.test"
    assert set(network.dns.asked) == {"_matrix-fed._tcp.a.test"}


async def test_a_record_that_was_found_still_counts_while_name_servers_fail(
    network: Network,
) -> None:
    await network.serves("a.test", port=7016)
    network.dns.records["_matrix-fed._tcp.a.test"] = ["10 5 7016 a.test."]
    assert await network.asks("a.test") == "a.test"

    network.dns.failing = True
    network.clock.passes(2 * HOUR)
    assert await network.asks("a.test") == "a.test"
    network.dns.failing = False
    network.dns.records.clear()
    network.clock.passes(2 * HOUR)
    with pytest.raises(RemoteUnavailable):
        await network.asks("a.test")


async def test_a_domain_that_states_to_have_no_server_is_believed(network: Network) -> None:
    there = await network.serves("a.test")
    network.dns.records["_matrix-fed._tcp.a.test"] = ["0 0 0 ."]

    with pytest.raises(RemoteUnavailable):
        await network.asks("a.test")
    assert there.seen == []


async def test_hosts_are_tried_in_the_order_of_the_records_until_one_answers(
    network: Network,
) -> None:
    third = await network.serves("a.test", port=7009)
    network.addresses.zone["third.test"] = [third.address]
    network.addresses.zone["second.test"] = [free_address()]
    network.dns.records["_matrix-fed._tcp.a.test"] = [
        "30 0 7009 third.test.",
        "10 0 7009 first.test.",
        "20 0 7009 second.test.",
    ]

    await network.asks("a.test")
    asked = [name for name in network.addresses.asked if name != "a.test"]
    assert asked == ["first.test", "second.test", "third.test"]


async def test_the_addresses_of_a_name_are_tried_until_one_answers(network: Network) -> None:
    there = await network.serves("a.test", port=7010)
    network.addresses.zone["a.test"] = [free_address(), there.address]

    assert await network.asks("a.test:7010") == "a.test"


# The well-known file


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"<html>", {}),
        ([], {}),
        ({}, {}),
        ({"m.server": 5}, {}),
        ({"m.server": "matrix a.test"}, {}),
        ({"m.server": "matrix.a.test:99999"}, {}),
        ({"m.server": "https://matrix.a.test"}, {}),
        ({"m.server": "matrix.a.test"}, {"status": 404}),
        ({"m.server": "matrix.a.test"}, {"status": 500}),
        ({"m.server": "matrix.a.test", "x": "x" * 51_200}, {}),
        (b"", {"status": 302, "headers": {"Location": WELL_KNOWN}}),
        (b"", {"status": 302, "headers": {"Location": "http://a.test/elsewhere"}}),
        (b"", {"status": 302, "headers": {"Location": "https://[/"}}),
        (b"", {"status": 302}),
    ],
)
async def test_an_answer_that_is_no_delegation_is_none(
    network: Network, content: Any, options: dict[str, Any]
) -> None:
    there = await network.serves("a.test")
    await network.serves("matrix.a.test")
    web_server = await network.serves("a.test", address=there.address, port=WELL_KNOWN_PORT)
    web_server.answers("GET", WELL_KNOWN, content, **options)

    assert await network.asks("a.test") == "a.test"
    assert web_server.seen[0].host == f"a.test:{WELL_KNOWN_PORT}"
    assert len(web_server.seen) <= 6


async def test_a_delegation_behind_a_redirect_is_found(network: Network) -> None:
    await network.serves("matrix.a.test")
    www = await network.serves("www.a.test", port=WELL_KNOWN_PORT)
    www.answers("GET", "/matrix.json", {"m.server": "matrix.a.test"})
    location = f"https://www.a.test:{WELL_KNOWN_PORT}/matrix.json"
    await network.serves_well_known("a.test", b"", status=301, headers={"Location": location})

    assert await network.asks("a.test") == "matrix.a.test"


async def test_a_web_server_with_a_wrong_certificate_delegates_nothing(network: Network) -> None:
    there = await network.serves("a.test")
    await network.serves("matrix.evil.test")
    evil = await network.serves("evil.test", address=there.address, port=WELL_KNOWN_PORT)
    evil.answers("GET", WELL_KNOWN, {"m.server": "matrix.evil.test"})

    assert await network.asks("a.test") == "a.test"
    assert evil.seen == []


@pytest.mark.parametrize(
    ("headers", "hours"),
    [
        ({}, 24),
        ({"Cache-Control": "public, max-age=7200"}, 2),
        ({"Cache-Control": "max-age=99999999"}, 48),
        ({"Cache-Control": "max-age=nonsense"}, 24),
        ({"Expires": "Wed, 15 Nov 2023 01:13:20 GMT"}, 3),
        ({"Expires": "0"}, 1 / 60),
        ({"Cache-Control": "no-store"}, 1 / 60),
    ],
)
async def test_a_delegation_is_kept_as_long_as_its_headers_say_within_bounds(
    network: Network, headers: dict[str, str], hours: float
) -> None:
    await network.serves("old.test", port=7011)
    await network.serves("new.test", port=7011)
    there = await network.serves_well_known(
        "a.test", {"m.server": "old.test:7011"}, headers=headers
    )
    assert await network.asks("a.test") == "old.test"
    there.answers("GET", WELL_KNOWN, {"m.server": "new.test:7011"})

    network.clock.passes(hours * HOUR - 1)
    assert await network.asks("a.test") == "old.test"
    network.clock.passes(2)
    assert await network.asks("a.test") == "new.test"


async def test_a_failure_is_remembered_for_minutes_and_then_for_an_hour(network: Network) -> None:
    await network.serves("a.test", port=8448)
    there = await network.serves_well_known("b.test", b"", status=404)
    network.addresses.zone["b.test"] = [there.address]
    await network.serves("b.test", address=there.address)
    asked = []
    for minutes in (0, 4, 2, 9, 2, 19, 2, 39, 2, 59, 2, 59, 2):
        network.clock.passes(minutes * 60)
        await network.asks("b.test")
        asked.append(len(there.seen))
    assert asked == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]


async def test_a_delegation_outlives_a_web_server_that_is_down_for_two_days(
    network: Network,
) -> None:
    await network.serves("matrix.a.test", port=7012)
    there = await network.serves_well_known("a.test", {"m.server": "matrix.a.test:7012"})
    await network.asks("a.test")
    there.answers("GET", WELL_KNOWN, b"", status=502)

    network.clock.passes(47 * HOUR)
    assert await network.asks("a.test") == "matrix.a.test"
    network.clock.passes(2 * HOUR)
    with pytest.raises(RemoteUnavailable):
        await network.asks("a.test")


async def test_a_server_that_has_moved_is_looked_for_anew_when_it_cannot_be_reached(
    network: Network,
) -> None:
    await network.serves("new.test", port=7013)
    network.addresses.zone["old.test"] = [free_address()]
    there = await network.serves_well_known("a.test", {"m.server": "old.test:7013"})
    with pytest.raises(RemoteUnavailable):
        await network.asks("a.test")
    there.answers("GET", WELL_KNOWN, {"m.server": "new.test:7013"})

    network.clock.passes(400)
    with pytest.raises(RemoteUnavailable):
        await network.asks("a.test")
    assert await network.asks("a.test") == "new.test"


async def test_many_who_want_the_same_server_look_for_it_once(network: Network) -> None:
    await network.serves("matrix.a.test", port=7014)
    there = await network.serves_well_known("a.test", {"m.server": "matrix.a.test:7014"})

    await asyncio.gather(*(network.asks("a.test") for _ in range(20)))
    assert len(there.seen) == 1


async def test_a_well_known_file_that_never_comes_is_not_waited_for(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(well_known, "TIMEOUT_SECONDS", 0.2)
    there = await network.serves("a.test")
    slow = await network.serves("a.test", address=there.address, port=WELL_KNOWN_PORT)

    async def never(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    slow.handles("GET", WELL_KNOWN, never)
    assert await network.asks("a.test") == "a.test"
