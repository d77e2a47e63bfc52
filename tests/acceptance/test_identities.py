"""Who is believed: identities that were lost and restored, and devices that nobody vouches for."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_bots.matrix.cross_signing import OwnIdentity, nio_requests, publish
from yizhan_testing.installation import (
    ADMIN,
    BOT,
    LI,
    WAIT_S,
    ZHANG,
    Installation,
    NioTalk,
    Talk,
    code_of,
    open_installation,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_testing.nio_client import NioClient

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]

CHANGED = "您的加密身份换过了，所以没有执行"


@dataclass(frozen=True)
class Colleagues:
    """Zhang asks, Li decides; both have verified devices and have greeted the bot."""

    yizhan: Installation
    zhang: Talk
    li: Talk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def colleagues(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Colleagues]:
    async with open_installation(tmp_path_factory.mktemp("yizhan") / "data") as yizhan:
        await yizhan.up()
        clients = await asyncio.gather(yizhan.js(ZHANG), yizhan.js(LI))
        yield Colleagues(yizhan, *await asyncio.gather(*map(yizhan.talk, clients)))


async def loses_everything(yizhan: Installation, talk: Talk) -> Talk:
    """Sign in anew with neither an old device nor the recovery key, and reset the identity."""
    await talk.client.close()
    client = await yizhan.js(talk.client.user_id, identity=False)
    await client.resets_identity()
    return Talk(client, talk.room)


async def is_refused(yizhan: Installation, talk: Talk, text: str) -> None:
    """Say something that the new identity may not, and be told why without any secret."""
    sent = await talk.says(text)
    answer = await talk.hears(CHANGED, after=sent)
    assert f"!成员 信任 {talk.client.user_id}" in (answer.body or "")
    assert yizhan.matters(sent) == [("refused", "identity_changed", "identity_changed")]


async def decides_from_the_list(talk: Talk, ref: str) -> None:
    """Look up the code, since what was said before cannot be read any more, and approve."""
    waiting = await talk.asks("待办", ref[:4])
    (line,) = [line for line in (waiting.body or "").splitlines() if line.startswith(ref)]
    await talk.asks(f"1 {line[:7]}", f"您同意了 张三（{ZHANG}） 的请假（{ref}）")


async def test_a_person_who_lost_everything_is_refused_restored_in_chat_and_decides(
    colleagues: Colleagues,
) -> None:
    yizhan, zhang = colleagues.yizhan, colleagues.zhang
    wang = await yizhan.account("wang", "王五")
    talk = await yizhan.talk(await yizhan.js(wang))
    ref = await zhang.submits("王五", "重置")
    code, _ = await talk.reads_task("重置")

    talk = await loses_everything(yizhan, talk)
    await is_refused(yizhan, talk, f"1 {code}")
    assert yizhan.steps(ref) == [("open", "bot")]

    admin = await yizhan.talk(await yizhan.js(ADMIN))
    command = f"!成员 信任 {wang}"
    await admin.asks(command, "只有管理员可以恢复")  # not pinned on the machine yet
    said = await yizhan.run("bots", "trust", ADMIN)
    own = (await admin.client.identity())["master_key"]
    assert own in "".join(said.split())
    shown = await admin.asks(command, f"王五（{wang}） 现在的身份指纹是")
    theirs = (await talk.client.identity())["master_key"]
    assert theirs in "".join((shown.body or "").split())
    confirmation = re.search(r"!成员 信任 @\S+ \S+", shown.body or "")
    assert confirmation is not None
    await admin.asks(confirmation[0], f"已恢复 王五（{wang}）")

    await talk.hears("管理员已确认您的新身份")
    await decides_from_the_list(talk, ref)
    assert yizhan.steps(ref) == [("open", "bot"), ("approve", wang)]
    await zhang.hears(f"同意了您的请假（{ref}）")


async def test_a_person_who_lost_everything_is_restored_on_the_machine_and_decides(
    colleagues: Colleagues,
) -> None:
    yizhan, zhang = colleagues.yizhan, colleagues.zhang
    zhao = await yizhan.account("zhao", "赵六")
    talk = await yizhan.talk(await yizhan.js(zhao))
    ref = await zhang.submits("赵六", "重置")

    talk = await loses_everything(yizhan, talk)
    await is_refused(yizhan, talk, "待办")
    said = await yizhan.run("bots", "trust", zhao)
    assert (await talk.client.identity())["master_key"] in "".join(said.split())

    await decides_from_the_list(talk, ref)
    assert yizhan.steps(ref) == [("open", "bot"), ("approve", zhao)]


async def test_nobody_but_the_administrator_restores_anybody(colleagues: Colleagues) -> None:
    zhang = colleagues.zhang
    sent = await zhang.says(f"!成员 信任 {LI}")
    await zhang.hears("只有管理员可以恢复成员的信任", after=sent)
    assert colleagues.yizhan.matters(sent) == [("refused", "verified", "not_administrator")]


async def nio_talk(yizhan: Installation, client: NioClient) -> NioTalk:
    room = await client.creates_room(invite=[BOT])
    await client.sees_member(room, BOT, within=WAIT_S)
    return NioTalk(client, room)


async def test_a_nio_user_whose_device_our_module_cross_signed_decides(
    colleagues: Colleagues,
) -> None:
    yizhan, zhang = colleagues.yizhan, colleagues.zhang
    sun = await yizhan.account("sun", "孙七")
    client = await yizhan.nio(sun)
    await publish(
        nio_requests(client.client),
        OwnIdentity.generate(sun),
        client.device_id,
        client.client.olm.account.identity_keys["ed25519"],
        yizhan.passwords[sun],
    )
    talk = await nio_talk(yizhan, client)
    await talk.hears("请您审批：驿站助手")

    ref = await zhang.submits("孙七", "用别的客户端")
    task = await talk.hears("事由：用别的客户端")
    await talk.says(f"1 {code_of(task.body)}")

    await talk.hears(f"您同意了 张三（{ZHANG}） 的请假（{ref}）")
    await zhang.hears(f"同意了您的请假（{ref}）")
    assert yizhan.steps(ref) == [("open", "bot"), ("approve", sun)]


async def test_a_nio_user_without_cross_signing_is_answered_and_refused(
    colleagues: Colleagues,
) -> None:
    yizhan, zhang = colleagues.yizhan, colleagues.zhang
    ref = await zhang.submits("李四", "给李四的")
    code, _ = await colleagues.li.reads_task("给李四的")
    zhou = await yizhan.account("zhou", "周八")
    talk = await nio_talk(yizhan, await yizhan.nio(zhou))

    sent = await talk.says(f"1 {code}")

    answer = await talk.hears("您这台设备还没有验证，所以没有执行")
    assert "会话" in (answer.body or "")
    assert code not in (answer.body or "")
    assert yizhan.matters(sent) == [("refused", "unsigned_device", "unsigned_device")]
    assert yizhan.steps(ref) == [("open", "bot")]
