"""What the server itself tells people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio

from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect

PATH = "/_synapse/admin/v1/send_server_notice"


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path, dialect: Dialect) -> AsyncIterator[HomeserverInProcess]:
    settings: dict[str, Any] = {
        "server_notices.localpart": "notices",
        "rooms.encrypt_by_default": "all",
    }
    async with homeserver_in_process(tmp_path, dialect, **settings) as server:
        yield server


def notice(person: Person, text: str) -> dict[str, object]:
    return {"user_id": person.user_id, "content": {"msgtype": "m.server_notice", "body": text}}


async def test_notices_arrive_in_a_room_of_ones_own(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    admin = await homeserver.person("admin", admin=True)
    path = f"/v3/user/{quote(alice.user_id)}/account_data/m.invite_permission_config"
    await alice.put(path, {"default_action": "block"})
    first = await admin.post(PATH, notice(alice, "今晚停机"))
    await alice.put(path, {})
    again = [await admin.put(f"{PATH}/t1", notice(alice, "已恢复")) for _ in range(2)]
    assert again[0] == again[1]

    [(room, section)] = (await alice.syncs()).body["rooms"]["invite"].items()
    types = {event["type"] for event in section["invite_state"]["events"]}
    assert "m.room.encryption" not in types
    tags = await alice.get(f"/v3/user/{quote(alice.user_id)}/rooms/{quote(room)}/tags")
    assert tags == {"tags": {"m.server_notice": {}}}
    refused = await alice.refused("POST", f"/v3/rooms/{quote(room)}/leave", {})
    assert refused.errcode == "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
    await alice.joins(room)
    synced = await alice.syncs()
    assert synced.texts(room) == ["今晚停机", "已恢复"]
    sender = next(e for e in synced.timeline(room) if e["event_id"] == first["event_id"])["sender"]
    assert sender == "@notices:test.example"
    # Nobody else speaks there, and one may leave; the next notice invites again.
    refused = await alice.refused(
        "PUT", f"/v3/rooms/{quote(room)}/send/m.room.message/1", {"body": "?"}
    )
    assert refused.errcode == "M_FORBIDDEN"
    await alice.leaves(room)
    await admin.post(PATH, notice(alice, "第三条"))
    assert list((await alice.syncs()).body["rooms"]["invite"]) == [room]

    assert (await bob.refused("POST", PATH, notice(alice, "x"))).errcode == "M_FORBIDDEN"
    nobody = {"user_id": "@none:test.example", "content": {}}
    assert (await admin.refused("POST", PATH, nobody)).errcode == "M_NOT_FOUND"


async def test_notices_are_off_unless_somebody_may_speak(tmp_path: Path, dialect: Dialect) -> None:
    async with homeserver_in_process(tmp_path, dialect) as homeserver:
        admin = await homeserver.person("admin", admin=True)
        refused = await admin.refused("POST", PATH, notice(admin, "x"))
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
