"""matrix-nio in an encrypted room, with another nio and with a matrix-js-sdk client."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_testing.town import Town, open_town

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.js_client import JsClient
    from yizhan_testing.nio_client import NioClient
    from yizhan_testing.servers import RunningHomeserver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]


@dataclass
class Trio:
    """Carol and Dan use nio, Erin uses js-sdk; all three are in one encrypted room."""

    carol: NioClient
    dan: NioClient
    erin: JsClient
    room: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trio(
    homeserver: RunningHomeserver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Trio]:
    async with open_town(homeserver, tmp_path_factory.mktemp("trio")) as town:
        yield await _meet(town)


async def _meet(town: Town) -> Trio:
    carol = await town.nio(await town.person("carol"))
    dan = await town.nio(await town.person("dan"))
    erin = await town.js(await town.person("erin"))
    room = await carol.creates_room(invite=[dan.user_id, erin.user_id])
    await dan.accepts_invitation(room)
    await erin.accepts_invitation(room)
    for nio in (carol, dan):
        for person in (carol, dan, erin):
            await nio.sees_member(room, person.user_id)
    await erin.sees_member(room, dan.user_id)
    return Trio(carol, dan, erin, room)


async def test_everybody_reads_everybody(trio: Trio) -> None:
    first = await trio.carol.says(trio.room, "大家好")
    assert (await trio.dan.reads("大家好")).encrypted
    assert (await trio.erin.reads("大家好", room=trio.room)).event_id == first

    second = await trio.erin.says(trio.room, "hello from the other SDK")
    for nio in (trio.carol, trio.dan):
        read = await nio.reads("hello from the other SDK")
        assert (read.event_id, read.encrypted) == (second, True)


async def test_files_are_read_across_sdks(trio: Trio, tmp_path: Path) -> None:
    original = tmp_path / "scan.bin"
    original.write_bytes(secrets.token_bytes(300_000))

    from_nio = await trio.carol.sends_file(trio.room, original)
    assert await trio.dan.saves_file(from_nio) == original.read_bytes()
    await trio.erin.reads(event_id=from_nio)
    await trio.erin.saves_file(from_nio, tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == original.read_bytes()

    from_js = await trio.erin.sends_file(trio.room, original)
    assert await trio.carol.saves_file(from_js) == original.read_bytes()


async def test_receipts_and_typing_are_seen_across_sdks(trio: Trio) -> None:
    sent = await trio.carol.says(trio.room, "read me")
    await trio.erin.reads(event_id=sent)
    await trio.erin.marks_read(sent)
    await trio.carol.sees_receipt(trio.erin.user_id, sent)
    await trio.dan.reads(event_id=sent)
    await trio.dan.marks_read(trio.room, sent)
    await trio.erin.sees_receipt(trio.dan.user_id, sent)

    await trio.erin.types(trio.room)
    await trio.carol.sees_typing(trio.room, trio.erin.user_id)
    await trio.dan.types(trio.room)
    await trio.erin.sees_typing(trio.room, trio.dan.user_id)


async def test_reaction_edit_and_redaction_are_seen_across_sdks(trio: Trio) -> None:
    sent = await trio.erin.says(trio.room, "draft")
    await trio.carol.reads(event_id=sent)
    await trio.carol.reacts(trio.room, sent, "✅")
    assert await trio.erin.sees_reactions(trio.room, sent, "✅") == [trio.carol.user_id]

    own = await trio.carol.says(trio.room, "teh text")  # codespell:ignore teh
    await trio.erin.reads(event_id=own)
    edit = await trio.carol.edits(trio.room, own, "the text")
    await trio.erin.reads("the text", event_id=own, edited=True)
    assert (await trio.dan.reads(event_id=edit)).content["m.new_content"]["body"] == "the text"

    await trio.erin.redacts(trio.room, sent)
    await trio.dan.sees_redaction(sent)
