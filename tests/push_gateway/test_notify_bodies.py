"""Whatever a client sends to the gateway is answered as the specification says, never by 5xx."""

import gzip
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yizhan_testing.push_gateway import Gateway, run_gateway
from yizhan_testing.push_service import PushService, Subscription

DEVICE: dict[str, object] = {"app_id": "a", "pushkey": "k"}


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"\xff\xfe", "M_NOT_JSON"),
        (b'{"notification": {"devices": [], "sender": "\xff"}}', "M_NOT_JSON"),
        (b'{"notification": {"devices": [], "sender": "\\ud800"}}', "M_NOT_JSON"),
        (b'{"notification": {"devices": []}} trailing', "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b"null", "M_BAD_JSON"),
        (b"{}", "M_BAD_JSON"),
        (b'{"notification": []}', "M_BAD_JSON"),
        (b'{"notification": {}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": {}}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [1]}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [{"app_id": "a"}]}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [{"app_id": "a", "pushkey": 1}]}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [], "event_id": 1}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [], "counts": {"unread": -1}}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [], "counts": {"unread": 1.5}}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [], "content": {"n": 1e999}}}', "M_BAD_JSON"),
        (b'{"notification": {"devices": [], "content": ' + b"[" * 50_000, "M_BAD_JSON"),
    ],
)
async def test_a_malformed_body_is_named(gateway: Gateway, body: bytes, errcode: str) -> None:
    status, answer = await gateway.post(body)
    assert (status, answer["errcode"]) == (400, errcode)


async def test_nobody_to_notify_is_no_error(gateway: Gateway) -> None:
    assert await gateway.notify() == (200, {"rejected": []})


async def test_more_devices_than_a_person_has_are_refused(gateway: Gateway) -> None:
    assert (await gateway.notify(*[DEVICE] * 100))[0] == 200
    status, answer = await gateway.notify(*[DEVICE] * 101)
    assert (status, answer["errcode"]) == (400, "M_BAD_JSON")


async def test_an_oversized_body_is_refused_also_when_compressed(gateway: Gateway) -> None:
    body = b" " * 1_000_000
    status, answer = await gateway.post(body)
    assert (status, answer["errcode"]) == (413, "M_TOO_LARGE")
    status, answer = await gateway.post(gzip.compress(body), **{"Content-Encoding": "gzip"})
    assert (status, answer["errcode"]) == (413, "M_TOO_LARGE")


async def test_a_body_that_is_not_what_its_encoding_says_is_a_client_error(
    gateway: Gateway,
) -> None:
    address = f"{gateway.url}/_matrix/push/v1/notify"
    headers = {"Content-Encoding": "gzip"}
    async with gateway.http.post(address, data=b"plain", headers=headers) as response:
        assert response.status == 400


async def test_unknown_paths_and_methods_are_unrecognized(gateway: Gateway) -> None:
    for method, path, status in (
        ("GET", "/_matrix/push/v1/notify", 405),
        ("POST", "/_matrix/push/v1/other", 404),
        ("POST", "/_matrix/push/v1/notify/", 404),
        ("DELETE", "/health", 405),
    ):
        async with gateway.http.request(method, gateway.url + path) as response:
            assert response.status == status
            assert (await response.json())["errcode"] == "M_UNRECOGNIZED"


async def test_health_and_the_key_are_open_to_any_web_client(gateway: Gateway) -> None:
    async with gateway.http.get(f"{gateway.url}/health") as response:
        assert response.status == 200
    async with gateway.http.get(f"{gateway.url}/_yizhan/push/v1/vapid") as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.content_type == "application/json"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=8,
)


_LEFT_OUT = object()


def spoiled(valid: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return `valid` with up to two of its keys left out or replaced by any JSON value."""
    changes = st.dictionaries(
        st.sampled_from(sorted(valid)), json_values | st.just(_LEFT_OUT), max_size=2
    )
    return changes.map(
        lambda change: {
            key: value for key, value in {**valid, **change}.items() if value is not _LEFT_OUT
        }
    )


def bodies(endpoint: str, pushkey: str, auth: str) -> st.SearchStrategy[dict[str, Any]]:
    data = spoiled(
        {
            "endpoint": endpoint,
            "auth": auth,
            "events_only": True,
            "only_last_per_room": True,
            "default_payload": {"session_id": 1},
        }
    )
    device = spoiled({"app_id": "a", "pushkey": pushkey, "tweaks": {}}).flatmap(
        lambda device: data.map(lambda data: {**device, "data": data})
    )
    notification = spoiled(
        {
            "event_id": "$e",
            "room_id": "!r",
            "type": "m.room.message",
            "sender": "@a:b",
            "prio": "low",
            "content": {"body": "hi"},
            "counts": {"unread": 1},
            "user_is_target": True,
        }
    )
    return st.tuples(notification, st.lists(device, max_size=3)).map(
        lambda pair: {"notification": {**pair[0], "devices": pair[1]}}
    )


async def test_no_body_is_answered_by_a_server_error(
    tmp_path: Path, push_service: PushService
) -> None:
    async with run_gateway(tmp_path, outbound_allow=("127.0.0.1",), detail="content") as gateway:
        browser = push_service.subscribe(gateway.vapid)
        examples: list[bytes] = []

        @settings(
            max_examples=400, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @given(bodies(browser.endpoint, browser.p256dh, browser.auth) | json_values)
        def collect(body: Any) -> None:
            examples.append(json.dumps(body).encode())

        collect()
        statuses = set()
        for body in examples:
            status, answer = await gateway.post(body)
            assert status in {200, 400}, body
            assert ("rejected" in answer) == (status == 200)
            statuses.add(status)
        # Both kinds were met, so neither assertion above was idle.
        assert statuses == {200, 400}
        assert push_service.requests > 0


async def test_deeply_nested_client_data_is_dropped_not_fatal(
    gateway: Gateway, browser: Subscription
) -> None:
    # Below the depth at which reading the body stops, so that it is the payload's problem.
    nested: dict[str, Any] = {}
    for _ in range(900):
        nested = {"a": nested}
    assert (await gateway.notify(browser.device(default_payload=nested)))[0] == 200
    assert (await browser.next_message()).payload["room_id"]


async def test_a_connection_that_ends_early_leaves_the_gateway_well(gateway: Gateway) -> None:
    async def half() -> Any:
        yield b'{"notification": '
        raise aiohttp.ClientError("gone")

    address = f"{gateway.url}/_matrix/push/v1/notify"
    with pytest.raises(aiohttp.ClientError):
        await gateway.http.post(address, data=half())
    assert await gateway.notify() == (200, {"rejected": []})
