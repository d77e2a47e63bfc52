"""A homeserver that tampers with decisions: refused or without effect, and on the record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from yizhan_testing.installation import LI, ZHANG, Installation, Talk, open_with_relay
from yizhan_testing.tampering import TamperingRelay, timeline_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]

JsonObject = dict[str, Any]
OPEN = [("open", "bot")]
APPROVED = [("open", "bot"), ("approve", LI)]
REJECTED = [("open", "bot"), ("reject", LI)]


@dataclass(frozen=True)
class Colleagues:
    """Zhang asks, Li decides, Wang has no part in it; the bot sees what the liar lets through."""

    yizhan: Installation
    liar: TamperingRelay
    zhang: Talk
    li: Talk
    wang: Talk

    async def request(self, reason: str) -> tuple[str, str]:
        """Have Zhang ask Li for leave; returns the request's number and Li's code."""
        ref = await self.zhang.submits("李四", reason)
        code, _ = await self.li.reads_task(reason)
        return ref, code

    async def wakes_bot(self) -> None:
        """Have something else happen, so that /sync answers, and wait until that is handled."""
        await self.zhang.asks("统计", "您提交的")

    async def history(self, ref: str) -> str:
        """Return what the applicant is told about the request, refused attempts included."""
        return (await self.zhang.asks(f"进度 {ref}", "经过：")).body or ""

    def insert(self, room: str, event: JsonObject) -> None:
        """Show the bot one more event of the room, once."""
        pending = [event]

        def insert_once(answer: JsonObject) -> None:
            if pending:
                joined = answer.setdefault("rooms", {}).setdefault("join", {})
                timeline = joined.setdefault(room, {}).setdefault("timeline", {})
                timeline.setdefault("events", []).append(pending.pop())

        self.liar.on_sync(insert_once)

    def change(self, room: str, change: Callable[[JsonObject], None]) -> None:
        """Change each encrypted event that a person sends into the room."""

        def change_all(answer: JsonObject) -> None:
            for event in encrypted(answer, room):
                change(event)

        self.liar.on_sync(change_all)

    def hold(self, room: str) -> list[JsonObject]:
        """Keep from the bot what a person sends into the room; returns where it is kept."""
        held: list[JsonObject] = []

        def hold_all(answer: JsonObject) -> None:
            kept = list(encrypted(answer, room))
            held.extend(kept)
            for found, events in timeline_of(answer):
                if found == room:
                    events[:] = [event for event in events if event not in kept]

        self.liar.on_sync(hold_all)
        return held


def encrypted(answer: JsonObject, room: str) -> Iterator[JsonObject]:
    """Find the encrypted events of the room that are not the bot's own."""
    for found, events in timeline_of(answer):
        for event in events:
            own = event["sender"].startswith("@yizhan:")
            if found == room and event["type"] == "m.room.encrypted" and not own:
                yield event


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Colleagues]:
    async with open_with_relay(tmp_path_factory.mktemp("yizhan") / "data") as (yizhan, liar):
        await yizhan.up()
        wang = await yizhan.account("wang", "王五")
        clients = await asyncio.gather(*map(yizhan.js, (ZHANG, LI, wang)))
        talks = await asyncio.gather(*map(yizhan.talk, clients))
        yield Colleagues(yizhan, liar, *talks)


@pytest_asyncio.fixture(loop_scope="module")
async def colleagues(office: Colleagues) -> AsyncIterator[Colleagues]:
    yield office
    office.liar.be_honest()


async def test_a_decision_redirected_to_another_request_decides_the_one_that_it_names(
    colleagues: Colleagues,
) -> None:
    li = colleagues.li
    ref, code = await colleagues.request("改道一")
    _, card = await li.reads_task("改道一")
    other, other_code = await colleagues.request("改道二")
    _, other_card = await li.reads_task("改道二")
    other_poll = await li.client.reads(
        room=li.room, type="org.matrix.msc3381.poll.start", after=other_card.event_id
    )

    def redirect(event: JsonObject) -> None:
        event["content"]["m.relates_to"] = {"m.in_reply_to": {"event_id": other_card.event_id}}

    colleagues.change(li.room, redirect)
    sent = await li.says(f"1 {code}", reply_to=card.event_id)
    await li.hears(f"您同意了 张三（{ZHANG}） 的请假（{ref}）")
    assert colleagues.yizhan.steps(ref) == APPROVED
    assert colleagues.yizhan.steps(other) == OPEN
    redirected = [(matter, standing) for matter, standing, _ in colleagues.yizhan.matters(sent)]
    assert redirected == [("redirected", "verified")]
    assert "被显示为对另一件事的回复" in await colleagues.history(ref)

    third, third_code = await colleagues.request("改道三")
    _, third_card = await li.reads_task("改道三")
    poll = await li.client.reads(
        room=li.room, type="org.matrix.msc3381.poll.start", after=third_card.event_id
    )
    colleagues.liar.be_honest()

    def redirect_answer(event: JsonObject) -> None:
        event["content"]["m.relates_to"]["event_id"] = other_poll.event_id

    colleagues.change(li.room, redirect_answer)
    answer = f"{third_code.replace('-', '')}:reject"
    sent = await li.client.answers_poll(li.room, poll.event_id, answer)
    await li.hears(f"您没有同意 张三（{ZHANG}） 的请假（{third}）")
    assert colleagues.yizhan.steps(third) == REJECTED
    assert [matter for matter, *_ in colleagues.yizhan.matters(sent)] == ["redirected"]
    assert colleagues.yizhan.steps(other) == OPEN
    assert other_code not in (code, third_code)


async def test_a_decision_withheld_until_it_is_wrong_is_refused(colleagues: Colleagues) -> None:
    li, zhang = colleagues.li, colleagues.zhang
    ref, code = await colleagues.request("扣留")
    held = colleagues.hold(li.room)
    sent = await li.says(f"1 {code}")
    await colleagues.wakes_bot()
    assert [event["event_id"] for event in held] == [sent]
    await zhang.asks(f"撤回 {ref}", f"已撤回 {ref}")

    colleagues.liar.be_honest()
    colleagues.insert(li.room, held[0])
    await colleagues.wakes_bot()

    await li.hears(f"{ref} 已被申请人撤回", after=sent)
    assert colleagues.yizhan.steps(ref) == [*OPEN, ("withdraw", ZHANG)]
    assert colleagues.yizhan.matters(sent) == [("refused", "verified", "closed")]
    assert f"以 李四（{LI}） 的名义发来的消息被拒绝（已结束）" in await colleagues.history(ref)


async def test_a_decision_that_comes_minutes_late_is_asked_for_again(
    colleagues: Colleagues,
) -> None:
    li = colleagues.li
    ref, code = await colleagues.request("迟到")

    def age(event: JsonObject) -> None:
        event["origin_server_ts"] -= 11 * 60_000

    colleagues.change(li.room, age)
    sent = await li.says(f"1 {code}")

    await li.hears(f"晚到了 11 分钟（代码 {code}），没有执行", after=sent)
    assert colleagues.yizhan.steps(ref) == OPEN
    assert colleagues.yizhan.matters(sent) == [("late", "verified", "late")]
    assert "被拒绝（晚到）" in await colleagues.history(ref)
    colleagues.liar.be_honest()
    await li.asks(f"1 {code}", f"您同意了 张三（{ZHANG}） 的请假（{ref}）")
    assert colleagues.yizhan.steps(ref) == APPROVED


async def test_a_decision_shown_again_is_a_replay(colleagues: Colleagues) -> None:
    li = colleagues.li
    ref, code = await colleagues.request("重放")
    kept: list[JsonObject] = []
    colleagues.change(li.room, lambda event: kept.append(deepcopy(event)))
    await li.asks(f"1 {code}", f"您同意了 张三（{ZHANG}） 的请假（{ref}）")

    colleagues.insert(li.room, {**kept[0], "event_id": "$replayed"})
    await colleagues.wakes_bot()

    await li.hears("服务器把您以前的一条消息又送来一次，没有执行")
    assert colleagues.yizhan.steps(ref) == APPROVED
    assert colleagues.yizhan.matters("$replayed") == [("refused", "replayed", "replayed")]
    assert "被拒绝（重放）" in await colleagues.history(ref)


async def test_decisions_in_another_order_decide_what_each_names_and_none_twice(
    colleagues: Colleagues,
) -> None:
    li = colleagues.li
    first, first_code = await colleagues.request("乱序一")
    second, second_code = await colleagues.request("乱序二")
    held = colleagues.hold(li.room)
    sent = [await li.says(text) for text in (f"2 {first_code}", f"1 {second_code}")]
    contrary = await li.says(f"1 {first_code}")
    while len(held) < 3:
        await colleagues.wakes_bot()
    assert [event["event_id"] for event in held] == [*sent, contrary]

    colleagues.liar.be_honest()
    for event in (held[1], held[0], held[2]):
        colleagues.insert(li.room, event)
    await colleagues.wakes_bot()

    await li.hears(f"您同意了 张三（{ZHANG}） 的请假（{second}）")
    await li.hears(f"您没有同意 张三（{ZHANG}） 的请假（{first}）")
    await li.hears("决定已经生效，不能改")
    assert colleagues.yizhan.steps(first) == REJECTED
    assert colleagues.yizhan.steps(second) == APPROVED
    assert colleagues.yizhan.matters(contrary) == [("refused", "verified", "closed")]


async def test_a_decision_under_another_name_is_nobodys(colleagues: Colleagues) -> None:
    li, wang = colleagues.li, colleagues.wang
    ref, code = await colleagues.request("冒名")

    # Wang knows the code and writes; the homeserver says that it was Li.
    colleagues.change(wang.room, lambda event: event.update(sender=LI))
    forged = await wang.says(f"1 {code}")
    await wang.hears(f"这条消息署名 {LI}，但不是用其密钥加密的，所以没有执行", after=forged)
    # Li writes; the homeserver says that it was Wang.
    colleagues.liar.be_honest()
    colleagues.change(li.room, lambda event: event.update(sender=wang.client.user_id))
    stolen = await li.says(f"1 {code}")
    await li.hears(f"这条消息署名 {wang.client.user_id}", after=stolen)

    for event in forged, stolen:
        matter = ("refused", "sender_mismatch", "sender_mismatch")
        assert colleagues.yizhan.matters(event) == [matter]
    assert colleagues.yizhan.steps(ref) == OPEN
    history = await colleagues.history(ref)
    assert history.count("被拒绝（发件人与密钥不符）") == 2


async def test_a_forged_reaction_and_a_forged_clear_text_decide_nothing(
    colleagues: Colleagues,
) -> None:
    li = colleagues.li
    ref, code = await colleagues.request("伪造")
    _, card = await li.reads_task("伪造")
    forged = {"sender": LI, "origin_server_ts": card.origin_server_ts + 1000}
    relation = {"rel_type": "m.annotation", "event_id": card.event_id, "key": "✅"}
    reaction = {**forged, "type": "m.reaction", "event_id": "$forged-reaction"}
    text = {**forged, "type": "m.room.message", "event_id": "$forged-text"}
    colleagues.insert(li.room, {**reaction, "content": {"m.relates_to": relation}})
    colleagues.insert(li.room, {**text, "content": {"msgtype": "m.text", "body": f"1 {code}"}})
    await colleagues.wakes_bot()

    await li.hears("表情没有加密，不算审批")
    await li.hears("这条消息没有加密，谁都可能改写，所以没有执行")
    assert colleagues.yizhan.steps(ref) == OPEN
    matters = colleagues.yizhan.matters
    assert matters("$forged-reaction") == [("reaction", "unencrypted", "✅")]
    assert matters("$forged-text") == [("refused", "unencrypted", "unencrypted")]
    assert "被拒绝（未加密）" in await colleagues.history(ref)
    await li.asks(f"1 {code}", f"您同意了 张三（{ZHANG}） 的请假（{ref}）")
