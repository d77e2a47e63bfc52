"""An approval from beginning to end: two colleagues, two matrix-js-sdk clients, one bot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from yizhan_testing.installation import (
    BOT,
    LI,
    ZHANG,
    Installation,
    Talk,
    code_of,
    open_installation,
)
from yizhan_testing.push_service import PushService, run_push_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]


@dataclass(frozen=True)
class Colleagues:
    """Both have verified devices and have greeted the bot."""

    yizhan: Installation
    zhang: Talk
    li: Talk
    push_service: PushService


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def colleagues(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Colleagues]:
    folder = tmp_path_factory.mktemp("yizhan") / "data"
    async with run_push_service() as push_service:
        allowed = [push_service.base_url.removeprefix("http://")]
        async with open_installation(folder, push_gateway__outbound_allow=allowed) as yizhan:
            await yizhan.up()
            # Li's client neither shares keys with nor accepts any from devices that their owner
            # has not signed, as clients are going to do (MSC4153).
            clients = await asyncio.gather(
                yizhan.js(ZHANG), yizhan.js(LI, exclude_insecure_devices=True)
            )
            zhang, li = await asyncio.gather(*map(yizhan.talk, clients))
            yield Colleagues(yizhan, zhang, li, push_service)


async def test_a_leave_is_requested_and_decided_with_digits_a_date_and_one_code(
    colleagues: Colleagues,
) -> None:
    zhang, li = colleagues.zhang, colleagues.li
    await zhang.asks("1", "从哪一天开始")
    await zhang.asks("2026-12-28", "一共几天")
    await zhang.asks("3", "事由")
    people = await zhang.asks("4", "请谁审批")
    assert people.body is not None
    (line,) = [line for line in people.body.splitlines() if LI in line]
    check = await zhang.asks(line.split()[0], "请核对")
    assert check.body is not None
    for part in ("2026年12月28日（星期一）", "3 天", "探亲", f"李四（{LI}）"):
        assert part in check.body
    submitted = await zhang.asks("1", "已提交，编号")
    assert submitted.body is not None
    ref = submitted.body.partition("编号 ")[2][:4]

    task = await li.hears("请您审批：张三")
    assert task.content["m.mentions"] == {"user_ids": [LI]}
    assert "2026年12月28日（星期一）" in (task.body or "")
    answer = await li.asks(f"1 {code_of(task.body)}", "您同意了")

    result = await zhang.hears("李四（@lisi:localhost） 同意了您的请假")
    assert ref in (result.body or "")
    assert result.content["m.mentions"] == {"user_ids": [ZHANG]}
    await zhang.hears("状态：已同意")
    assert colleagues.yizhan.steps(ref) == [("open", "bot"), ("approve", LI)]
    for talk, event in ((li, answer), (zhang, result)):
        assert await talk.client.shield(event.event_id) == ("NONE", None)
    stored = await li.client.request(
        "GET", f"/_matrix/client/v3/rooms/{li.room}/event/{task.event_id}"
    )
    assert stored["type"] == "m.room.encrypted"
    assert stored["sender"] == BOT
    assert "张三" not in str(stored["content"])


async def test_a_poll_answer_decides_and_the_request_tells_its_history(
    colleagues: Colleagues,
) -> None:
    zhang, li = colleagues.zhang, colleagues.li
    ref = await zhang.submits("李四", "看病")
    code, card = await li.reads_task("看病")
    poll = await li.client.reads(
        room=li.room, sender=BOT, type="org.matrix.msc3381.poll.start", after=card.event_id
    )
    options = poll.content["org.matrix.msc3381.poll.start"]["answers"]
    assert options[1]["org.matrix.msc1767.text"] == f"2 不同意 {code}"
    await li.client.answers_poll(li.room, poll.event_id, options[1]["id"])

    await li.hears("您没有同意")
    await zhang.hears(f"没有同意您的请假（{ref}）")
    assert colleagues.yizhan.steps(ref) == [("open", "bot"), ("reject", LI)]
    history = await zhang.asks(f"进度 {ref}", "经过：")
    assert f"李四（{LI}） 不同意" in (history.body or "")


async def test_the_approver_is_notified_by_web_push_without_any_content(
    colleagues: Colleagues,
) -> None:
    yizhan, zhang, li = colleagues.yizhan, colleagues.zhang, colleagues.li
    async with aiohttp.ClientSession() as http, http.get(yizhan.vapid_url) as response:
        vapid = (await response.json())["vapid"]
    browser = colleagues.push_service.subscribe(vapid)
    # The request that Hydrogen makes.
    pusher = {
        "kind": "http",
        "append": True,
        "profile_tag": "profile",
        "app_id": "io.element.hydrogen.web",
        "pushkey": browser.p256dh,
        "app_display_name": "Hydrogen",
        "device_display_name": "Firefox",
        "lang": "zh",
        "data": {
            "url": yizhan.gateway_url,
            "endpoint": browser.endpoint,
            "auth": browser.auth,
            "events_only": True,
            "only_last_per_room": True,
            "default_payload": {"session_id": "4711"},
        },
    }
    await li.client.request("POST", "/_matrix/client/v3/pushers/set", pusher)

    await zhang.submits("李四", "推送")
    _, card = await li.reads_task("推送")
    message = await browser.next_message()
    while message.payload.get("event_id") != card.event_id:
        message = await browser.next_message()

    assert message.payload.pop("unread") >= 1
    assert message.payload == {
        "session_id": "4711",
        "event_id": card.event_id,
        "room_id": li.room,
    }
    assert colleagues.push_service.refusals == []


async def test_a_person_verifies_the_bot_by_emoji_in_the_direct_room(
    colleagues: Colleagues,
) -> None:
    zhang = colleagues.zhang
    assert not (await zhang.client.trust(BOT))["verified"]

    verification = await zhang.client.requests_verification(BOT, room=zhang.room)
    await verification.starts_sas()
    shown = await verification.emojis()
    assert len(shown.emojis) == 7
    await verification.confirms()
    await verification.is_done()

    await zhang.client.sees_trust(BOT, verified=True)
    answer = await zhang.asks("统计", "您提交的")
    assert await zhang.client.shield(answer.event_id) == ("NONE", None)
