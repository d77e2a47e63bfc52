from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer


async def test_a_profile_is_set_read_by_anybody_and_told_to_the_rooms(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    mine = f"/v3/profile/{quote(alice.user_id)}"
    room_id = (await alice.calls("POST", "/v3/createRoom", {})).json["room_id"]
    assert (await server.call("GET", mine)).json == {}
    await alice.calls("PUT", f"{mine}/displayname", {"displayname": "张三"})
    await alice.calls("PUT", f"{mine}/avatar_url", {"avatar_url": "mxc://home.test/abc"})
    await alice.calls("PUT", f"{mine}/m.tz", {"m.tz": "Asia/Shanghai"})
    await alice.calls("PUT", f"{mine}/org.example.job", {"org.example.job": {"level": [1, None]}})
    assert (await server.call("GET", mine)).json == {
        "displayname": "张三",
        "avatar_url": "mxc://home.test/abc",
        "m.tz": "Asia/Shanghai",
        "org.example.job": {"level": [1, None]},
    }
    assert (await server.call("GET", f"{mine}/displayname")).json == {"displayname": "张三"}
    member = await alice.calls(
        "GET", f"/v3/rooms/{quote(room_id)}/state/m.room.member/{quote(alice.user_id)}"
    )
    assert member.json == {
        "membership": "join",
        "displayname": "张三",
        "avatar_url": "mxc://home.test/abc",
    }


async def test_a_profile_field_is_removed(server: AccountServer) -> None:
    alice = await server.has("alice")
    mine = f"/v3/profile/{alice.user_id}"
    await alice.calls("PUT", f"{mine}/displayname", {"displayname": "A"})
    await alice.calls("PUT", f"{mine}/x.y", {"x.y": 1})
    assert (await alice.calls("DELETE", f"{mine}/x.y")).json == {}
    assert (await alice.calls("DELETE", f"{mine}/x.y")).json == {}
    await alice.calls("PUT", f"{mine}/displayname", {"displayname": ""})
    assert (await server.call("GET", mine)).json == {}
    assert (await server.call("GET", f"{mine}/displayname")).errcode == "M_NOT_FOUND"


async def test_nobody_changes_somebody_elses_profile(server: AccountServer) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    path = f"/v3/profile/{bob.user_id}/displayname"
    answer = await alice.calls("PUT", path, {"displayname": "Mallory"})
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert (await alice.calls("DELETE", path)).status == 403
    assert (await server.call("PUT", path, {"displayname": "M"})).status == 401
    assert (await server.call("GET", f"/v3/profile/{bob.user_id}")).json == {}


async def test_profiles_of_nobody_are_not_there(server: AccountServer) -> None:
    assert (await server.call("GET", "/v3/profile/@nobody:home.test")).errcode == "M_NOT_FOUND"
    for garbage in ("alice", "@alice", "%00", "@a%00:home.test", "@:!"):
        answer = await server.call("GET", f"/v3/profile/{garbage}")
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), garbage


async def test_what_a_profile_cannot_hold_is_refused_and_changes_nothing(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    deep: object = 1
    for _ in range(400):
        deep = [deep]
    cases: list[tuple[str, object, str]] = [
        ("displayname", {}, "M_MISSING_PARAM"),
        ("displayname", {"displayname": 5}, "M_INVALID_PARAM"),
        ("displayname", {"displayname": "x" * 5000}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": 5}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": "mxc://home.test/" + "x" * 1100}, "M_INVALID_PARAM"),
        ("m.tz", {"m.tz": 8}, "M_INVALID_PARAM"),
        ("Nope", {"Nope": 1}, "M_INVALID_PARAM"),
        ("a%00.b", {"a\x00.b": 1}, "M_INVALID_PARAM"),
        ("a." + "b" * 300, {"a." + "b" * 300: 1}, "M_KEY_TOO_LARGE"),
        ("x.y", {"x.y": "z" * 70_000}, "M_PROFILE_TOO_LARGE"),
    ]
    for field, body, errcode in cases:
        answer = await alice.calls("PUT", f"/v3/profile/{alice.user_id}/{field}", body)
        assert (answer.status, answer.errcode) == (400, errcode), field
    raw = b'{"x.y": ' + b"[" * 400 + b"]" * 400 + b"}"
    answer = await alice.calls("PUT", f"/v3/profile/{alice.user_id}/x.y", raw=raw)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    assert (await server.call("GET", f"/v3/profile/{alice.user_id}")).json == {}


async def test_an_avatar_of_an_old_bridge_is_shown_as_it_is_given(server: AccountServer) -> None:
    alice = await server.has("alice")
    room = (await alice.calls("POST", "/v3/createRoom", {})).json["room_id"]
    picture = {"avatar_url": "https://example.org/a.png"}
    answer = await alice.calls("PUT", f"/v3/profile/{alice.user_id}/avatar_url", picture)
    assert answer.status == 200
    member = await alice.calls("GET", f"/v3/rooms/{room}/state/m.room.member/{alice.user_id}")
    assert member.json["avatar_url"] == picture["avatar_url"]


async def test_many_small_fields_cannot_exceed_the_limit_together(server: AccountServer) -> None:
    alice = await server.has("alice")
    mine = f"/v3/profile/{alice.user_id}"
    statuses = [
        (await alice.calls("PUT", f"{mine}/x.f{n}", {f"x.f{n}": "z" * 20_000})).status
        for n in range(4)
    ]
    assert statuses == [200, 200, 200, 400]
    whole = await server.call("GET", mine)
    assert len(whole.json) == 3
