"""Bots as the guides of their libraries teach to write them run on this server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.environments import environment_with
from yizhan_testing.foreign_bot import running_bot
from yizhan_testing.homeserver import Homeserver
from yizhan_testing.node import find_node, install_packages
from yizhan_testing.town import PASSWORD, Town, open_town

if TYPE_CHECKING:
    from yizhan_testing.servers import RunningHomeserver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

PROGRAMS = Path(__file__).parents[1] / "clients"


async def test_a_bot_on_matrix_bot_sdk_answers_reacts_and_handles_files(tmp_path: Path) -> None:
    program = PROGRAMS / "bot-sdk"
    await asyncio.to_thread(install_packages, program)
    # The library knows only the downloads that anybody may make.
    server = await Homeserver.start(
        tmp_path / "server", **{"media.unauthenticated_download": "true"}
    )
    try:
        async with open_town(server, tmp_path) as town:
            bot = await server.register("hello", PASSWORD)
            command: list[str | Path] = [
                find_node(), program / "bot.mjs", server.base_url, "hello", PASSWORD, "bot.json",
            ]  # fmt: skip
            async with running_bot(command, tmp_path / "bot", says="started"):
                await _talks_to_the_bot_of_matrix_bot_sdk(town, bot, tmp_path)
    finally:
        await server.stop()


async def _talks_to_the_bot_of_matrix_bot_sdk(town: Town, bot: str, folder: Path) -> None:
    alice = await town.js(await town.person("alice"))
    room = await alice.creates_room(invite=[bot], encrypted=False)
    await alice.sees_member(room, bot)

    greeting = await alice.says(room, "!hello")
    answer = await alice.reads(sender=bot, contains="Hello")
    assert answer.content["msgtype"] == "m.notice"
    assert answer.content["m.relates_to"] == {"m.in_reply_to": {"event_id": greeting}}
    assert await alice.sees_reactions(room, greeting, "👋") == [bot]

    await alice.sets_state(room, "m.room.power_levels", {"users": {bot: 50}})
    await alice.says(room, "!topic 今日值班")
    assert (await alice.reads(type="m.room.topic", sender=bot)).content["topic"] == "今日值班"

    letter = folder / "letter.txt"
    letter.write_text("dear all")
    await alice.sends_file(room, letter, "text/plain")
    sent_back = await alice.reads("LETTER.TXT", sender=bot)
    await alice.saves_file(sent_back.event_id, folder / "back.txt")
    assert (folder / "back.txt").read_text() == "DEAR ALL"


async def test_a_bot_on_simplematrixbotlib_echoes_in_an_encrypted_room(
    homeserver: RunningHomeserver, town: Town, tmp_path: Path
) -> None:
    python = await asyncio.to_thread(
        environment_with, "simplematrixbotlib==2.13.1", "matrix-nio[e2e]==0.26.0"
    )
    bot = await town.person("echo")
    program = PROGRAMS / "simplematrixbotlib" / "echo_bot.py"
    localpart = bot.removeprefix("@").partition(":")[0]
    command: list[str | Path] = [python, "-u", program, homeserver.base_url, localpart, PASSWORD]
    async with running_bot(command, tmp_path / "bot", says="Connected to"):
        alice = await town.js(await town.person("alice"))
        await alice.sets_up_identity()
        room = await alice.creates_room(invite=[bot])
        await alice.sees_member(room, bot)

        await alice.says(room, "!echo 山谷 有回声")
        answer = await alice.reads("山谷 有回声", room=room, sender=bot)
        assert answer.encrypted
