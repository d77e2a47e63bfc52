"""Notifications reach browsers, through the gateway's HTTP and a push service that checks."""

import asyncio
import time
from pathlib import Path

import pytest

from yizhan_bridges.app import Surroundings
from yizhan_bridges.delivery import DeliveryLimits
from yizhan_config.settings import PushApp
from yizhan_testing.push_gateway import EVENT, QUICK, ROOM, Gateway, run_gateway
from yizhan_testing.push_service import (
    Answer,
    PushService,
    Subscription,
    make_loopback_certificate,
    run_push_service,
)


async def test_a_browser_is_told_which_event_in_which_room(
    gateway: Gateway, browser: Subscription
) -> None:
    device = browser.device(default_payload={"session_id": "4711"})

    answered = await gateway.notify(device, counts={"unread": 3, "missed_calls": 1}, prio="high")

    assert answered == (200, {"rejected": []})
    message = await browser.next_message()
    assert message.payload == {
        "session_id": "4711",
        "event_id": EVENT,
        "room_id": ROOM,
        "unread": 3,
        "missed_calls": 1,
    }
    assert (message.ttl, message.urgency, message.topic) == (86_400, "normal", None)


async def test_no_content_leaves_unless_the_administrator_lets_it(
    tmp_path: Path, push_service: PushService
) -> None:
    # The same notification each time; only the configuration of its app differs.
    told = {
        "type": "m.room.message",
        "sender": "@li:example.org",
        "sender_display_name": "李四",
        "room_name": "采购科",
        "room_alias": "#caigou:example.org",
        "content": {"msgtype": "m.text", "body": "底价是三十万"},
    }
    names = {key: told[key] for key in told if key != "content"}
    ids = {"event_id": EVENT, "room_id": ROOM}
    apps = {
        "names": PushApp(kind="webpush", detail="names"),
        "content": PushApp(kind="webpush", detail="content"),
    }
    async with run_gateway(tmp_path, outbound_allow=("127.0.0.1",), apps=apps) as gateway:
        for app_id, expected in (
            ("default", ids),
            ("names", {**ids, **names}),
            ("content", {**ids, **told}),
        ):
            browser = push_service.subscribe(gateway.vapid)
            await gateway.notify(browser.device(app_id), **told)
            assert (await browser.next_message()).payload == expected


async def test_ciphertext_is_never_worth_sending(tmp_path: Path, push_service: PushService) -> None:
    async with run_gateway(tmp_path, outbound_allow=("127.0.0.1",), detail="content") as gateway:
        browser = push_service.subscribe(gateway.vapid)
        await gateway.notify(
            browser.device(), type="m.room.encrypted", content={"ciphertext": "AwgAEnAC"}
        )
        assert "content" not in (await browser.next_message()).payload


async def test_a_low_priority_may_wait(gateway: Gateway, browser: Subscription) -> None:
    await gateway.notify(browser.device(), prio="low")
    assert (await browser.next_message()).urgency == "low"


async def test_a_badge_update_reaches_who_did_not_ask_for_events_only(
    gateway: Gateway, browser: Subscription
) -> None:
    # As Synapse sends them: empty strings and nulls where the specification says "omitted".
    badge = {"event_id": None, "room_id": "", "type": None, "sender": "", "counts": {"unread": 2}}

    await gateway.notify(browser.device(events_only=True), **badge)
    await gateway.notify(browser.device(), **badge)

    assert (await browser.next_message()).payload == {"unread": 2}
    assert browser.is_idle


async def test_a_topic_replaces_within_a_room_and_links_no_two_people(
    gateway: Gateway, push_service: PushService
) -> None:
    async def topic(of: Subscription, room: str) -> str | None:
        await gateway.notify(of.device(only_last_per_room=True), room_id=room)
        return (await of.next_message()).topic

    li, wang = (push_service.subscribe(gateway.vapid) for _ in range(2))
    first = await topic(li, ROOM)
    assert first is not None
    assert await topic(li, ROOM) == first
    assert await topic(li, "!another:example.org") != first
    assert await topic(wang, ROOM) != first


async def test_the_length_of_a_message_does_not_tell_the_room(
    gateway: Gateway, browser: Subscription
) -> None:
    await gateway.notify(browser.device(), room_id="!a:b.cn")
    await gateway.notify(browser.device(), room_id="!a-much-longer-room-id:department.example.cn")
    short, long = [await browser.next_message() for _ in range(2)]
    assert short.body_bytes == long.body_bytes


async def test_an_ended_subscription_is_rejected_and_the_others_are_served(
    gateway: Gateway, push_service: PushService
) -> None:
    ended, unknown, alive = (push_service.subscribe(gateway.vapid) for _ in range(3))
    ended.ended = True
    unknown.endpoint += "-mistyped"

    answered = await gateway.notify(ended.device(), alive.device(), unknown.device())

    assert answered == (200, {"rejected": [ended.p256dh, unknown.p256dh]})
    assert (await alive.next_message()).payload["event_id"] == EVENT


@pytest.mark.parametrize(
    "spoiled",
    [
        {"pushkey": "not base64!"},
        {"pushkey": "BA"},
        {"pushkey": "B" + "A" * 86},  # a point, but not of the curve
        {"data": {}},
        {"data": None},
        {"auth": "c2hvcnQ"},
        {"auth": None},
        {"endpoint": 7},
        {"endpoint": "https://push.example.org/" + "a" * 2048},
    ],
)
async def test_a_pusher_that_can_never_work_is_rejected(
    gateway: Gateway, browser: Subscription, spoiled: dict[str, object]
) -> None:
    device = browser.device()
    for key, value in spoiled.items():
        if key in {"auth", "endpoint"}:
            device["data"] = {**device["data"], key: value}  # type: ignore[dict-item]
        else:
            device[key] = value

    answered = await gateway.notify(device)

    assert answered == (200, {"rejected": [device["pushkey"]]})
    assert browser.is_idle


async def test_an_app_that_is_not_served_here_is_rejected(
    tmp_path: Path, push_service: PushService
) -> None:
    apps = {"known": PushApp(kind="webpush")}
    async with run_gateway(
        tmp_path, outbound_allow=("127.0.0.1",), webpush_default=False, apps=apps
    ) as gateway:
        browser = push_service.subscribe(gateway.vapid)
        assert await gateway.notify(browser.device("unknown")) == (
            200,
            {"rejected": [browser.p256dh]},
        )
        assert await gateway.notify(browser.device("known")) == (200, {"rejected": []})


async def test_padded_and_ordinary_base64_are_understood(
    gateway: Gateway, browser: Subscription
) -> None:
    device = browser.device()
    device["pushkey"] = browser.p256dh.replace("-", "+").replace("_", "/") + "="
    device["data"] = {
        "endpoint": browser.endpoint,
        "auth": browser.auth.replace("-", "+").replace("_", "/") + "==",
    }
    assert await gateway.notify(device) == (200, {"rejected": []})


async def test_a_busy_service_is_tried_again_when_it_said(
    gateway: Gateway, push_service: PushService, browser: Subscription
) -> None:
    push_service.answers = [Answer(503, {"Retry-After": "1"}), Answer(500)]

    assert await gateway.notify(browser.device()) == (200, {"rejected": []})

    assert (await browser.next_message()).payload["event_id"] == EVENT
    assert browser.is_idle
    first, second, _ = push_service.arrivals
    assert second - first >= 0.99


async def test_after_the_last_attempt_the_homeserver_keeps_the_notification(
    gateway: Gateway, push_service: PushService, browser: Subscription
) -> None:
    push_service.answers = [Answer(503)] * QUICK.attempts
    alive = push_service.subscribe(gateway.vapid)

    status, body = await gateway.notify(browser.device())
    assert (status, body["errcode"]) == (502, "M_UNKNOWN")
    assert push_service.requests == QUICK.attempts

    # The homeserver tries again; one that works is not held back by one that does not.
    push_service.answers = []
    assert await gateway.notify(browser.device(), alive.device()) == (200, {"rejected": []})


async def test_a_long_wait_is_passed_on_and_respected(
    gateway: Gateway, push_service: PushService, browser: Subscription
) -> None:
    push_service.answers = [Answer(429, {"Retry-After": "120"})]
    assert (await gateway.notify(browser.device()))[0] == 502
    assert gateway.retry_after == "120"

    # An impatient homeserver is held off without troubling the push service.
    assert (await gateway.notify(browser.device()))[0] == 502
    assert push_service.requests == 1
    other = push_service.subscribe(gateway.vapid)
    assert (await gateway.notify(other.device()))[0] == 200


async def test_a_silent_service_costs_bounded_time(
    tmp_path: Path, push_service: PushService
) -> None:
    push_service.answers = [Answer(201, hangs=True)] * 2
    surroundings = Surroundings(
        timeout_seconds=0.2, limits=DeliveryLimits(attempts=2, backoff_seconds=0.01)
    )
    async with run_gateway(tmp_path, surroundings, outbound_allow=("127.0.0.1",)) as gateway:
        browser = push_service.subscribe(gateway.vapid)
        started = time.monotonic()
        status, _ = await gateway.notify(browser.device())
        assert status == 502
        assert push_service.requests == 2
        assert time.monotonic() - started < 5
        push_service.release()


async def test_a_service_that_is_not_there_is_no_reason_to_reject(gateway: Gateway) -> None:
    async with run_push_service() as gone:
        browser = gone.subscribe(gateway.vapid)
    status, _ = await gateway.notify(browser.device())
    assert status == 502


@pytest.mark.parametrize("status", [401, 403])
async def test_when_our_credentials_are_refused_no_pusher_is_lost(
    gateway: Gateway, push_service: PushService, browser: Subscription, status: int
) -> None:
    push_service.answers = [Answer(status)]
    assert (await gateway.notify(browser.device()))[0] == 502
    assert push_service.requests == 1


@pytest.mark.parametrize("status", [301, 307, 400, 413])
async def test_a_refused_message_is_neither_repeated_nor_redirected(
    gateway: Gateway, push_service: PushService, browser: Subscription, status: int
) -> None:
    push_service.answers = [Answer(status, {"Location": browser.endpoint})]
    assert await gateway.notify(browser.device()) == (200, {"rejected": []})
    assert push_service.requests == 1


async def test_an_endless_answer_is_not_read(
    gateway: Gateway, push_service: PushService, browser: Subscription
) -> None:
    push_service.answers = [Answer(201, body=b"x" * 20_000_000)]
    assert await gateway.notify(browser.device()) == (200, {"rejected": []})


async def test_too_much_at_once_is_refused_before_anything_is_sent(
    tmp_path: Path, push_service: PushService
) -> None:
    surroundings = Surroundings(limits=DeliveryLimits(max_pending=2))
    async with run_gateway(tmp_path, surroundings, outbound_allow=("127.0.0.1",)) as gateway:
        browsers = [push_service.subscribe(gateway.vapid) for _ in range(3)]
        status, body = await gateway.notify(*(browser.device() for browser in browsers))
        assert (status, body["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert push_service.requests == 0
        status, _ = await gateway.notify(*(browser.device() for browser in browsers[:2]))
        assert status == 200


async def test_a_slow_service_does_not_hold_up_another(
    tmp_path: Path, push_service: PushService
) -> None:
    async with (
        run_push_service() as slow,
        run_gateway(tmp_path, outbound_allow=("127.0.0.1",)) as gateway,
        asyncio.TaskGroup() as group,
    ):
        slow.answers = [Answer(201, hangs=True)] * 50
        stuck = slow.subscribe(gateway.vapid)
        for _ in range(50):
            group.create_task(gateway.notify(stuck.device()))
        browser = push_service.subscribe(gateway.vapid)
        async with asyncio.timeout(5):
            assert (await gateway.notify(browser.device()))[0] == 200
        assert slow.requests <= 10  # the limit for one host
        slow.answers = []
        slow.release()


async def test_a_private_service_over_tls_is_reached_by_its_listed_name(tmp_path: Path) -> None:
    server, client = make_loopback_certificate(tmp_path, "localhost")
    surroundings = Surroundings(ssl_context=client, limits=QUICK)
    async with (
        run_push_service("localhost", tls=server) as service,
        run_gateway(tmp_path, surroundings, outbound_allow=("localhost",)) as gateway,
    ):
        browser = service.subscribe(gateway.vapid)
        assert await gateway.notify(browser.device()) == (200, {"rejected": []})
        assert (await browser.next_message()).payload["event_id"] == EVENT
        assert service.refusals == []


async def test_the_key_survives_a_restart_and_is_private(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as first:
        pass
    async with run_gateway(tmp_path) as second:
        assert second.vapid == first.vapid
    assert (tmp_path / "secrets" / "vapid.pem").stat().st_mode & 0o777 == 0o600
