"""Questions to application services: aliases, users, third-party networks, pings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from aiohttp import web

from yizhan_testing.appservice import Bridge, running_bridge
from yizhan_testing.homeserver import Refused, homeserver_in_process

from .conftest import Scene, bridged

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect


async def test_a_bridge_makes_the_room_of_its_alias_when_somebody_joins(scene: Scene) -> None:
    alias = f"#_bridge_hall:{scene.homeserver.server_name}"
    made: list[str] = []

    async def make(_request: web.BaseRequest) -> web.StreamResponse:
        made.append(
            await scene.bot.creates_room(preset="public_chat", room_alias_name="_bridge_hall")
        )
        return web.json_response({})

    scene.bridge.answers[f"/rooms/{alias}"] = make
    answer = await scene.alice.post(f"/v3/join/{quote(alias, safe='')}", {})
    assert answer["room_id"] == made[0]
    # Now it is known here, and nobody is asked.
    await scene.alice.get(f"/v3/directory/room/{quote(alias, safe='')}")
    assert [path for path, _ in scene.bridge.asked] == [f"/rooms/{alias}"]

    unknown = f"#_bridge_none:{scene.homeserver.server_name}"
    refused = await scene.alice.refused("POST", f"/v3/join/{quote(unknown, safe='')}", {})
    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    other = f"#none:{scene.homeserver.server_name}"
    asked = len(scene.bridge.asked)
    assert (
        await scene.alice.refused("POST", f"/v3/join/{quote(other, safe='')}", {})
    ).status == 404
    assert len(scene.bridge.asked) == asked


async def test_a_bridge_registers_its_user_when_somebody_invites(scene: Scene) -> None:
    ghost = scene.bridge.ghost(scene.homeserver, "_bridge_li")

    async def register(_request: web.BaseRequest) -> web.StreamResponse:
        await scene.bridge.registers(scene.homeserver, "_bridge_li")
        return web.json_response({})

    scene.bridge.answers[f"/users/{ghost.user_id}"] = register
    room = await scene.alice.creates_room()
    await scene.alice.invites(room, ghost)
    await ghost.joins(room)
    nobody = scene.bridge.ghost(scene.homeserver, "_bridge_nobody")
    with pytest.raises(Refused) as refused:
        await scene.alice.invites(room, nobody)
    assert (refused.value.status, refused.value.errcode) == (404, "M_NOT_FOUND")


async def test_a_bridge_that_is_away_makes_the_answer_a_time_out(
    tmp_path: Path, dialect: Dialect
) -> None:
    bridge = Bridge()
    async with running_bridge(bridge):
        file = bridge.writes_registration(tmp_path)
    overrides = {"appservices.registrations": [str(file)]}
    async with homeserver_in_process(tmp_path, dialect, **overrides) as homeserver:
        alice = await homeserver.person("alice")
        alias = quote(f"#_bridge_hall:{homeserver.server_name}", safe="")
        assert (await alice.refused("POST", f"/v3/join/{alias}", {})).status == 408
        refused = await bridge.bot(homeserver).refused("POST", "/v1/appservice/bridge/ping", {})
        assert (refused.status, refused.errcode) == (502, "M_CONNECTION_FAILED")


async def test_aliases_of_the_namespace_are_the_bridges_alone(scene: Scene) -> None:
    server = scene.homeserver.server_name
    mine, theirs = quote(f"#_bridge_x:{server}", safe=""), quote(f"#other:{server}", safe="")
    room = await scene.alice.creates_room()
    refused = await scene.alice.refused("PUT", f"/v3/directory/room/{mine}", {"room_id": room})
    assert (refused.status, refused.errcode) == (400, "M_EXCLUSIVE")
    refused = await scene.alice.refused("POST", "/v3/createRoom", {"room_alias_name": "_bridge_x"})
    assert refused.errcode == "M_EXCLUSIVE"
    # The bridge may name any room, whether or not it is there.
    await scene.bot.put(f"/v3/directory/room/{mine}", {"room_id": room})
    refused = await scene.bot.refused("PUT", f"/v3/directory/room/{theirs}", {"room_id": room})
    assert refused.errcode == "M_EXCLUSIVE"
    # It is Alice's room, and not hers to unname.
    assert (await scene.alice.refused("DELETE", f"/v3/directory/room/{mine}")).errcode == (
        "M_EXCLUSIVE"
    )
    await scene.bot.delete(f"/v3/directory/room/{mine}")


async def test_ping_tells_whether_the_bridge_can_be_reached(scene: Scene) -> None:
    scene.bridge.answers_with("/ping", {})
    answer = await scene.bot.post("/v1/appservice/bridge/ping", {"transaction_id": "meow"})
    assert isinstance(answer["duration_ms"], int)
    refused = await scene.bot.refused("POST", "/v1/appservice/other/ping", {})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    refused = await scene.alice.refused("POST", "/v1/appservice/bridge/ping", {})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    scene.bridge.hs_token = "it has another one now"
    refused = await scene.bot.refused("POST", "/v1/appservice/bridge/ping", {})
    assert (refused.status, refused.errcode) == (502, "M_BAD_STATUS")
    assert refused.body["status"] == 403
    assert "M_FORBIDDEN" in refused.body["body"]


async def test_a_bridge_without_url_is_sent_nothing(tmp_path: Path, dialect: Dialect) -> None:
    async with bridged(tmp_path, dialect, url=None) as scene:
        refused = await scene.bot.refused("POST", "/v1/appservice/bridge/ping", {})
        assert (refused.status, refused.errcode) == (400, "M_URL_NOT_SET")
        room = await scene.alice.creates_room(invite=[scene.bot])
        await scene.bot.joins(room)
        await scene.bot.says(room, "I only speak")
        alias = quote(f"#_bridge_x:{scene.homeserver.server_name}", safe="")
        assert (await scene.alice.refused("POST", f"/v3/join/{alias}", {})).status == 404
        assert not scene.bridge.arrived
        assert not scene.bridge.asked


IRC: dict[str, Any] = {
    "user_fields": ["network", "nickname"],
    "location_fields": ["network", "channel"],
    "icon": "mxc://example.org/irc",
    "field_types": {},
    "instances": [{"desc": "Libera", "network_id": "libera", "fields": {}}],
}


async def test_third_party_networks_are_described_and_searched(
    tmp_path: Path, dialect: Dialect
) -> None:
    namespaces = {
        "users": [{"regex": "@_bridge_.*", "exclusive": True}],
        "aliases": [{"regex": "#_bridge_.*", "exclusive": True}],
    }
    async with bridged(
        tmp_path, dialect, protocols=["irc", "silent"], namespaces=namespaces
    ) as scene:
        alice, bridge = scene.alice, scene.bridge

        async def found_at(path: str, **query: str) -> Any:
            return await alice.get(path, **query)

        bridge.answers_with("/thirdparty/protocol/irc", IRC)
        found = (await alice.get("/v3/thirdparty/protocols"))["irc"]
        assert found["instances"][0]["instance_id"] == "bridge|libera"
        assert found["user_fields"] == IRC["user_fields"]
        assert await alice.get("/v3/thirdparty/protocol/irc") == found
        for unknown in ("silent", "xmpp"):
            refused = await alice.refused("GET", f"/v3/thirdparty/protocol/{unknown}")
            assert refused.errcode == "M_NOT_FOUND"

        user = {"userid": "@_bridge_li:x", "protocol": "irc", "fields": {"nickname": "li"}}
        place = {"alias": "#_bridge_c:x", "protocol": "irc", "fields": {"channel": "#c"}}
        bridge.answers_with("/thirdparty/user/irc", [user, "no user"])
        bridge.answers_with("/thirdparty/location/irc", [place, {"alias": 5}])
        bridge.answers_with("/thirdparty/user", [user])
        bridge.answers_with("/thirdparty/location", [place])
        assert await found_at("/v3/thirdparty/user/irc", nickname="li") == [user]
        assert bridge.asked[-1] == ("/thirdparty/user/irc", {"nickname": "li"})
        assert await found_at("/v3/thirdparty/location/irc", channel="#c") == [place]
        server = scene.homeserver.server_name
        ghost, alias = f"@_bridge_li:{server}", f"#_bridge_c:{server}"
        assert await found_at("/v3/thirdparty/user", userid=ghost) == [user]
        assert bridge.asked[-1] == ("/thirdparty/user", {"userid": ghost})
        assert await found_at("/v3/thirdparty/location", alias=alias) == [place]
        assert bridge.asked[-1] == ("/thirdparty/location", {"alias": alias})

        bridge.answers_with("/thirdparty/user/irc", [])
        assert (await alice.refused("GET", "/v3/thirdparty/user/irc")).errcode == "M_NOT_FOUND"
        bridge.answers_with("/thirdparty/user/irc", {}, status=500)
        assert (await alice.refused("GET", "/v3/thirdparty/user/irc")).errcode == "M_NOT_FOUND"


async def test_networks_have_directories_of_their_own(scene: Scene) -> None:
    hidden = await scene.alice.creates_room(name="of the network")
    public = await scene.alice.creates_room(visibility="public", name="of the server")
    path = f"/v3/directory/list/appservice/libera/{quote(hidden)}"
    await scene.bot.put(path, {"visibility": "public"})

    async def listed(**wish: object) -> set[str]:
        answer = await scene.alice.post("/v3/publicRooms", wish)
        return {each["room_id"] for each in answer["chunk"]}

    assert await listed() == {public}
    assert await listed(third_party_instance_id="bridge|libera") == {hidden}
    assert await listed(third_party_instance_id="bridge|other") == set()
    assert await listed(include_all_networks=True) == {hidden, public}
    refused = await scene.alice.refused("PUT", path, {"visibility": "public"})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    await scene.bot.put(path, {"visibility": "private"})
    assert await listed(third_party_instance_id="bridge|libera") == set()
    await scene.bot.put(path, {"visibility": "public"})
    await scene.bot.delete(path)
    assert await listed(include_all_networks=True) == {public}
