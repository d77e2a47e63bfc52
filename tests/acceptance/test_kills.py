"""The bot is killed between a decision and its answer: exactly one of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.installation import WAIT_S, open_with_relay

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def sends_seen(happened: asyncio.Event) -> Callable[[str, str], bool]:
    """Pick the bot's messages, and say when there has been one."""

    def is_send(method: str, path: str) -> bool:
        wanted = method == "PUT" and "/send/" in path
        if wanted:
            happened.set()
        return wanted

    return is_send


async def test_killed_between_decision_and_answer_it_decides_once_and_answers_once(
    tmp_path: Path,
) -> None:
    chance = random.Random(20)
    async with open_with_relay(tmp_path / "data") as (yizhan, relay):
        await yizhan.start("homeserver", "bots")
        people = [await yizhan.account("zhang", "张三"), await yizhan.account("li", "李四")]
        clients = await asyncio.gather(*map(yizhan.js, people))
        zhang, li = await asyncio.gather(*map(yizhan.talk, clients))
        refs: list[str] = []

        async def opens_request() -> str:
            reason = f"第{len(refs)}次"
            refs.append(await zhang.submits("李四", reason))
            code, _ = await li.reads_task(reason)
            return code

        async def is_answered() -> None:
            await li.hears(f"您同意了 张三（{zhang.client.user_id}） 的请假（{refs[-1]}）")
            await zhang.hears(f"同意了您的请假（{refs[-1]}）")

        # At any moment after the homeserver has accepted the decision.
        for _ in range(6):
            code = await opens_request()
            await li.says(f"1 {code}")
            await asyncio.sleep(chance.uniform(0, 0.25))
            await yizhan.kill("bots")
            await yizhan.start("bots")
            await is_answered()

        # Exactly between: the decision is kept, its answer not yet accepted by the homeserver ...
        code = await opens_request()
        happened = asyncio.Event()
        relay.refuse(sends_seen(happened))
        await li.says(f"1 {code}")
        await asyncio.wait_for(happened.wait(), WAIT_S)
        await yizhan.kill("bots")
        assert yizhan.steps(refs[-1]) == [("open", "bot"), ("approve", li.client.user_id)]
        assert await li.heard(f"的请假（{refs[-1]}）") == []
        relay.be_honest()
        await yizhan.start("bots")
        await is_answered()

        # ... and the answer accepted, but the bot does not know it.
        code = await opens_request()
        happened = asyncio.Event()
        relay.lose_answers(sends_seen(happened))
        await li.says(f"1 {code}")
        await asyncio.wait_for(happened.wait(), WAIT_S)
        await yizhan.kill("bots")
        relay.be_honest()
        await yizhan.start("bots")
        await is_answered()

        # Whatever was still to come has come when these are answered.
        for talk in zhang, li:
            await talk.asks("统计", "您提交的")
        for ref in refs:
            assert yizhan.steps(ref) == [("open", "bot"), ("approve", li.client.user_id)]
            assert len(await li.heard(f"的请假（{ref}）。")) == 1
            assert len(await zhang.heard(f"同意了您的请假（{ref}）。")) == 1
