"""Pushkeys, endpoints and content are capabilities and secrets: none is found in a log."""

import logging
from pathlib import Path

import pytest

from yizhan_bridges.app import Surroundings
from yizhan_bridges.notification import parse_notification
from yizhan_testing.push_gateway import QUICK, run_gateway
from yizhan_testing.push_service import Answer, PushService


async def test_no_outcome_writes_a_secret_to_the_log(
    tmp_path: Path, push_service: PushService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret_text = "底价是三十万"
    surroundings = Surroundings(timeout_seconds=0.2, limits=QUICK)
    secrets = [secret_text]
    async with run_gateway(tmp_path, surroundings, outbound_allow=("127.0.0.1",)) as gateway:
        for answers in (
            [],
            [Answer(410)],
            [Answer(400)],
            [Answer(403)],
            [Answer(503)] * 3,
            [Answer(201, hangs=True)] * 3,
        ):
            push_service.answers = list(answers)
            browser = push_service.subscribe(gateway.vapid)
            secrets += [browser.p256dh, browser.auth, browser.endpoint.rpartition("/")[2]]
            content = {"body": secret_text}
            await gateway.notify(browser.device(), content=content, room_name=secret_text)
            await gateway.notify(browser.device("x" * 65))
            for endpoint in ("http://10.0.0.1/", "https://a..b/", "https://u:p@a.b/", "gopher:"):
                await gateway.notify(browser.device(endpoint=endpoint + browser.auth))
        push_service.release()

    told = "\n".join(str(vars(record)) for record in caplog.records)
    assert "push service answered" in told
    assert "pushkey rejected" in told
    assert "not delivered" in told
    assert "provider misconfigured" in told
    assert [secret for secret in secrets if secret in told] == []


async def test_a_bug_is_answered_and_logged_without_its_message(
    tmp_path: Path,
    push_service: PushService,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A bug cannot be ordered through an interface, so one is planted.
    secret = "https://push.example.org/capability"

    def buggy(*_: object) -> bytes:
        raise RuntimeError(secret)

    monkeypatch.setattr("yizhan_bridges.webpush.provider.build_payload", buggy)
    async with run_gateway(tmp_path, outbound_allow=("127.0.0.1",)) as gateway:
        browser = push_service.subscribe(gateway.vapid)
        status, body = await gateway.notify(browser.device())

    assert (status, body) == (500, {"errcode": "M_UNKNOWN", "error": "Internal error"})
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "in buggy" in record.__dict__["frames"]
    assert secret not in str(vars(record))


def test_a_notification_is_safe_to_print() -> None:
    device = b'{"app_id": "a", "pushkey": "key", "data": {"auth": "s"}}'
    body = b'{"notification": {"devices": [%s], "content": {"body": "text"}}}' % device
    printed = repr(parse_notification(body))
    assert "app_id" in printed
    assert not any(secret in printed for secret in ("key", "auth", "text"))
