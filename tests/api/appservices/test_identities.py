"""For whom a bridge may speak, and what it may do that nobody else may."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from yizhan_testing.appservice import AS_TOKEN, Ghost
from yizhan_testing.homeserver import Person, Refused

from .conftest import Scene, bridged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from yizhan_testing.databases import Dialect


async def test_a_bridge_speaks_for_itself_and_its_users(scene: Scene) -> None:
    ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
    assert await scene.bot.get("/v3/account/whoami") == {
        "user_id": scene.bot.user_id, "is_guest": False
    }  # fmt: skip
    nobody = Person(
        scene.homeserver.http, scene.homeserver.base_url, "", "", scene.bridge.as_token, ""
    )
    assert (await nobody.get("/v3/account/whoami"))["user_id"] == scene.bot.user_id
    assert (await ghost.get("/v3/account/whoami"))["user_id"] == ghost.user_id

    room = await scene.alice.creates_room(preset="public_chat")
    await ghost.joins(room)
    said = await ghost.says(room, "from elsewhere")
    event = await scene.alice.get(f"/v3/rooms/{quote(room)}/event/{quote(said)}")
    assert event["sender"] == ghost.user_id
    await ghost.put(f"/v3/profile/{ghost.user_id}/displayname", {"displayname": "李"})
    assert (await scene.alice.get(f"/v3/profile/{ghost.user_id}"))["displayname"] == "李"


async def test_a_bridge_speaks_for_nobody_else(scene: Scene) -> None:
    stranger = scene.bridge.ghost(scene.homeserver, "alice")
    refused = await stranger.refused("GET", "/v3/account/whoami")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    unregistered = scene.bridge.ghost(scene.homeserver, "_bridge_nobody")
    refused = await unregistered.refused("GET", "/v3/account/whoami")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    elsewhere = scene.bridge.ghost(scene.homeserver, "_bridge_li")
    elsewhere.user_id = "@_bridge_li:elsewhere.example"
    assert (await elsewhere.refused("GET", "/v3/account/whoami")).status == 403
    # A person's token speaks for that person, whatever the query says.
    answer = await scene.alice.get("/v3/account/whoami", user_id=scene.bot.user_id)
    assert answer["user_id"] == scene.alice.user_id


async def test_devices_are_made_named_and_removed_without_signing_in(scene: Scene) -> None:
    ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
    keys: dict[str, object] = {"one_time_keys": {}}
    refused = await ghost.refused("POST", "/v3/keys/upload", keys)
    assert (refused.status, refused.errcode) == (400, "M_MISSING_PARAM")
    ghost.device_id = "PHONE"
    refused = await ghost.refused("POST", "/v3/keys/upload", keys)
    assert (refused.status, refused.errcode) == (400, "M_UNKNOWN_DEVICE")

    ghost.device_id = ""
    assert await put_status(ghost, "/v3/devices/PHONE", {"display_name": "桥"}) == 201
    assert await put_status(ghost, "/v3/devices/PHONE", {"display_name": "桥二"}) == 200
    assert (await ghost.get("/v3/devices/PHONE"))["display_name"] == "桥二"
    ghost.device_id = "PHONE"
    assert (await ghost.get("/v3/account/whoami"))["device_id"] == "PHONE"
    assert (await ghost.post("/v3/keys/upload", keys))["one_time_key_counts"]

    ghost.device_id = ""
    await ghost.put("/v3/devices/TABLET", {})
    await ghost.delete("/v3/devices/PHONE", {})
    await ghost.post("/v3/delete_devices", {"devices": ["TABLET"]})
    assert (await ghost.get("/v3/devices"))["devices"] == []
    # Others cannot make devices so.
    assert (await scene.alice.refused("PUT", "/v3/devices/NEW", {})).status == 404


async def put_status(person: Person, path: str, body: dict[str, str]) -> int:
    url = f"{person.base_url}/_matrix/client{path}"
    headers = {"Authorization": f"Bearer {person.token}"}
    async with person.http.put(
        url, json=body, headers=headers, params={"user_id": person.user_id}
    ) as response:
        return response.status


async def test_accounts_of_the_namespace_are_the_bridges_alone(scene: Scene) -> None:
    bot, login = scene.bot, "m.login.application_service"
    answer = await bot.post("/v3/register", {"type": login, "username": "_bridge_li"})
    ghost = Person(
        bot.http, bot.base_url, answer["user_id"], answer["device_id"], answer["access_token"], ""
    )
    assert (await ghost.get("/v3/account/whoami"))["device_id"] == answer["device_id"]

    taken = await bot.refused("POST", "/v3/register", {"type": login, "username": "_bridge_li"})
    assert taken.errcode == "M_USER_IN_USE"
    outside = await bot.refused("POST", "/v3/register", {"type": login, "username": "wang"})
    assert (outside.status, outside.errcode) == (400, "M_EXCLUSIVE")
    with pytest.raises(AssertionError, match="M_EXCLUSIVE"):
        await scene.homeserver.register("_bridge_wang")

    for token, errcode in (("", "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")):
        for path, body in (
            ("/v3/register", {"type": login, "username": "_bridge_zhao"}),
            ("/v3/login", {"type": login, "identifier": {"type": "m.id.user", "user": "x"}}),
        ):
            assert await anonymously(scene, path, body, token) == (401, errcode)


async def anonymously(
    scene: Scene, path: str, body: Mapping[str, object], token: str
) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{scene.homeserver.base_url}/_matrix/client{path}"
    async with scene.homeserver.http.post(url, json=body, headers=headers) as response:
        return response.status, (await response.json())["errcode"]


async def test_registration_refuses_people_the_names_of_bridges(
    tmp_path: Path, dialect: Dialect
) -> None:
    settings = {"registration.enabled": True, "registration.require_token": False}
    async with bridged(tmp_path, dialect, settings) as scene:
        body = {"username": "_bridge_li", "password": "correct horse", "auth": None}
        assert await anonymously(scene, "/v3/register", body, "") == (400, "M_EXCLUSIVE")
        refused = await scene.alice.refused("GET", "/v3/register/available?username=_bridge_li")
        assert refused.errcode == "M_EXCLUSIVE"


async def test_a_bridge_signs_its_users_in(scene: Scene) -> None:
    ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
    flows = (await scene.alice.get("/v3/login"))["flows"]
    assert {"type": "m.login.application_service"} in flows

    def body(user: str) -> dict[str, object]:
        return {
            "type": "m.login.application_service", "device_id": "DESK",
            "identifier": {"type": "m.id.user", "user": user},
        }  # fmt: skip

    answer = await scene.bot.post("/v3/login", body("_bridge_li"))
    assert (answer["user_id"], answer["device_id"]) == (ghost.user_id, "DESK")
    assert answer["access_token"]
    refused = await scene.bot.refused("POST", "/v3/login", body("alice"))
    assert (refused.status, refused.errcode) == (403, "M_EXCLUSIVE")


async def test_a_bridge_dates_its_events(scene: Scene) -> None:
    room = await scene.bot.creates_room()
    path = f"/v3/rooms/{quote(room)}"
    sent = await scene.bot.call(
        "PUT", f"{path}/send/m.room.message/1", {"msgtype": "m.text", "body": "old"},
        params={"ts": "1234567890123"},
    )  # fmt: skip
    event = await scene.bot.get(f"{path}/event/{quote(sent['event_id'])}")
    assert event["origin_server_ts"] == 1234567890123
    sent = await scene.bot.call(
        "PUT", f"{path}/state/m.room.topic/", {"topic": "old"}, params={"ts": "1234567890124"}
    )
    event = await scene.bot.get(f"{path}/event/{quote(sent['event_id'])}")
    assert event["origin_server_ts"] == 1234567890124
    for wrong in ("soon", "-1", str(2**53)):
        with pytest.raises(Refused) as refused:
            await scene.bot.call(
                "PUT", f"{path}/send/m.room.message/2", {"body": ""}, params={"ts": wrong}
            )
        assert refused.value.status == 400
    # People cannot.
    own = await scene.alice.creates_room()
    sent = await scene.alice.call(
        "PUT", f"/v3/rooms/{quote(own)}/send/m.room.message/1", {"body": ""}, params={"ts": "5"}
    )
    event = await scene.alice.get(f"/v3/rooms/{quote(own)}/event/{quote(sent['event_id'])}")
    assert event["origin_server_ts"] > 5


async def test_no_confirmation_is_asked_of_a_bridge(scene: Scene) -> None:
    ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
    key = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8"
    for _ in range(2):
        master = {
            "user_id": ghost.user_id, "usage": ["master"], "keys": {f"ed25519:{key}": key}
        }  # fmt: skip
        await ghost.post("/v3/keys/device_signing/upload", {"master_key": master})
        key = key.replace("AB", "AC", 1)
    await ghost.post("/v3/account/deactivate", {})
    assert (await ghost.refused("GET", "/v3/account/whoami")).status == 403


async def test_only_those_who_are_to_be_limited_are_limited(
    tmp_path: Path, dialect: Dialect
) -> None:
    limits = {
        "rate_limits.enabled": True, "rate_limits.messages": {"per_second": 0.001, "burst": 3}
    }  # fmt: skip

    async def sent(person: Person, room: str) -> int:
        for number in range(5):
            try:
                await person.says(room, str(number))
            except Refused as refused:
                if refused.errcode != "M_LIMIT_EXCEEDED":
                    raise
                return number
        return 5

    async with bridged(tmp_path, dialect, limits, rate_limited=True) as scene:
        ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
        room = await scene.bot.creates_room(preset="public_chat", invite=[ghost])
        await ghost.joins(room)
        assert await sent(ghost, room) < 5
        assert await sent(scene.bot, room) == 5
    second = tmp_path / "second"
    second.mkdir()
    async with bridged(second, dialect, limits, rate_limited=False) as scene:
        ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
        room = await scene.bot.creates_room(preset="public_chat", invite=[ghost])
        await ghost.joins(room)
        assert await sent(ghost, room) == 5


async def test_a_ghost_may_sync_as_any_device(scene: Scene) -> None:
    ghost: Ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
    room = await scene.alice.creates_room(preset="public_chat")
    await ghost.joins(room)
    assert room in (await ghost.syncs()).body["rooms"]["join"]
    await scene.alice.says(room, "news")
    assert (await ghost.syncs()).texts(room) == ["news"]
    assert ghost.token == AS_TOKEN
