"""Following the stream for a bridge reads no table from end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from yizhan_database import open_database
from yizhan_server.app import MIGRATIONS
from yizhan_testing.appservice import running_bridge
from yizhan_testing.databases import StatementRecorder, fresh_database
from yizhan_testing.homeserver import served, settings_for

if TYPE_CHECKING:
    from pathlib import Path


async def test_no_statement_for_a_bridge_scans_a_table(tmp_path: Path) -> None:
    url = await fresh_database("sqlite", MIGRATIONS, tmp_path)
    with StatementRecorder() as recorder:
        async with running_bridge() as bridge:
            file = bridge.writes_registration(
                tmp_path, receive_ephemeral=True, **{"org.matrix.msc3202": True}
            )
            settings = settings_for(tmp_path, **{"appservices.registrations": [str(file)]})
            db = await open_database(url, MIGRATIONS)
            try:
                async with served(settings, db) as homeserver:
                    alice, bot = await homeserver.person("alice"), bridge.bot(homeserver)
                    ghost = await bridge.registers(homeserver, "_bridge_li")
                    await ghost.put("/v3/devices/D", {})
                    room = await alice.creates_room(invite=[bot, ghost])
                    await bot.joins(room)
                    await ghost.joins(room)
                    said = await bot.says(room, "hello")
                    path = f"/v3/rooms/{quote(room)}"
                    await alice.post(f"{path}/receipt/m.read/{quote(said)}", {})
                    await alice.put(
                        "/v3/sendToDevice/m.x/1", {"messages": {ghost.user_id: {"D": {}}}}
                    )
                    listing = f"/v3/directory/list/appservice/net/{quote(room)}"
                    await bot.put(listing, {"visibility": "public"})
                    network = {"third_party_instance_id": "bridge|net"}
                    assert (await alice.post("/v3/publicRooms", network))["chunk"]
                    await bot.delete(listing)
                    await alice.leaves(room)
                    await bridge.hears(await bot.says(room, "bye"))
            finally:
                await db.close()
    mine = [each for each in recorder.statements if "appservice_" in each or "to_device" in each]
    assert len(mine) > 8
    assert recorder.full_scans(tmp_path / url.rpartition("/")[2]) == []
