"""The bot in an encrypted room, as a person sees it on the screen of a graphical client."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from graphical import nheko, screen
from yizhan_testing.installation import BOT, LI, ZHANG, Installation, open_installation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(screen.missing() + nheko.missing()),
        reason=f"needs {', '.join(screen.missing() + nheko.missing())}: see debian-packages.txt",
    ),
]

KEEP = os.environ.get("YIZHAN_SCREENSHOTS")
"""A folder for the pictures that the documentation shows, docs/images; nowhere by default."""


async def test_a_person_asks_for_leave_in_nheko_and_reads_the_decision(tmp_path: Path) -> None:
    async with (
        open_installation(tmp_path / "data") as yizhan,
        screen.open_screen(tmp_path, width=nheko.WIDTH, height=nheko.HEIGHT) as monitor,
        nheko.open_nheko(monitor, tmp_path / "home") as zhang,
    ):
        await yizhan.up()
        li = await yizhan.talk(await yizhan.js(LI))

        await zhang.signs_in(yizhan.base_url, ZHANG, yizhan.passwords[ZHANG])
        await zhang.sets_up_encryption()
        await zhang.starts_direct_chat(BOT)
        await zhang.opens_room("驿站助手")
        await monitor.shows("For English, send: lang en", "事由：第一次练习审批")

        await zhang.says("0")
        await zhang.says("请假 开始=明天 天数=3 事由=探亲 审批人=李四")
        code, _ = await li.reads_task("探亲")
        await li.asks(f"1 {code}：一路平安", "您同意了")

        await monitor.shows("请假 开始=明天 天数=3", f"（{LI}）同意了您的请假")
        if KEEP:
            await monitor.photographs(Path(KEEP) / "nheko-bot.png")
        assert await kinds_of_messages(yizhan, ZHANG) == {"m.room.encrypted"}


async def kinds_of_messages(yizhan: Installation, user_id: str) -> set[str]:
    """Return the types of all messages in the only room of somebody, as the server knows them."""
    client = f"{yizhan.base_url}/_matrix/client/v3"
    identifier = {"type": "m.id.user", "user": user_id}
    password = yizhan.passwords[user_id]
    login = {"type": "m.login.password", "identifier": identifier, "password": password}
    async with aiohttp.ClientSession(raise_for_status=True) as http:
        async with http.post(f"{client}/login", json=login) as answer:
            token = (await answer.json())["access_token"]
        signed_in = {"Authorization": f"Bearer {token}"}
        async with http.get(f"{client}/joined_rooms", headers=signed_in) as answer:
            (room,) = (await answer.json())["joined_rooms"]
        messages = f"{client}/rooms/{quote(room)}/messages?dir=b&limit=100"
        async with http.get(messages, headers=signed_in) as answer:
            events = (await answer.json())["chunk"]
    return {event["type"] for event in events if "state_key" not in event}
