"""`yizhan up --demo`, as `make run` starts it: a first start, a crash, a second start."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import aiohttp
import pytest

from yizhan_testing.installation import ADMIN, BOT, LI, ZHANG, open_installation

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def test_a_trial_prints_what_is_needed_survives_a_crash_and_a_second_start(
    tmp_path: Path,
) -> None:
    async with open_installation(tmp_path / "data") as yizhan:
        yizhan.language = "en_US.UTF-8"
        said = await yizhan.up()
        assert f"Address        {yizhan.base_url}" in said
        printed = dict(re.findall(r"(@\w+:localhost)  (\S+)$", said, re.MULTILINE))
        assert list(printed) == [ZHANG, LI, ADMIN]
        for user_id, password in printed.items():
            assert await signs_in(yizhan.base_url, user_id, password)
        assert not await signs_in(yizhan.base_url, ZHANG, printed[LI])

        yizhan.passwords = printed
        zhang = await yizhan.talk(await yizhan.js(ZHANG))
        menu = await zhang.asks("0", "1 请假")
        keys = await zhang.client.request(
            "POST", "/_matrix/client/v3/keys/query", {"device_keys": {BOT: []}}
        )
        (fingerprint,) = re.findall(r"Fingerprint    (.+)$", said, re.MULTILINE)
        (master_key,) = keys["master_keys"][BOT]["keys"].values()
        assert fingerprint.replace(" ", "") == master_key

        assert yizhan.terminal is not None
        killed = yizhan.process_id("bots")
        os.kill(killed, signal.SIGKILL)
        sent = await zhang.says("统计")
        await yizhan.terminal.until("The bots ended unexpectedly (SIGKILL) and starts again in 1 s")
        await zhang.hears("您提交的", after=sent)
        assert yizhan.process_id("bots") not in (0, killed)

        assert "Yizhan has stopped" in await yizhan.down()
        again = await yizhan.up()
        assert ZHANG in again
        assert not any(password in again for password in printed.values())
        await zhang.asks("3", "等您审批的有 1 件")
        await zhang.client.reloads()
        assert (await zhang.client.reads(event_id=menu.event_id)).body == menu.body


async def signs_in(base_url: str, user_id: str, password: str) -> bool:
    """Whether the homeserver accepts the password."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user_id},
        "password": password,
    }
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base_url}/_matrix/client/v3/login", json=body) as response,
    ):
        answer = await response.json()
        if response.status == 403:
            assert answer["errcode"] == "M_FORBIDDEN"
            return False
        assert (response.status, answer["user_id"]) == (200, user_id)
        return True
