from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from yizhan_server.accounts.filters import Filter
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.storage.account_data import find_account_data

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer, Person

ROOM = "!room:home.test"


def _mine(person: Person, rest: str) -> str:
    return f"/v3/user/{person.user_id}/{rest}"


async def test_account_data_is_kept_per_type_globally_and_per_room(
    server: AccountServer,
) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    path = _mine(alice, "account_data/im.vector.setting")
    assert (await alice.calls("GET", path)).errcode == "M_NOT_FOUND"
    content = {"深": [1, 2.5, None, {"x": "\u0000"}]}
    assert (await alice.calls("PUT", path, content)).json == {}
    assert (await alice.calls("GET", path)).json == content

    in_room = _mine(alice, f"rooms/{ROOM}/account_data/im.vector.setting")
    await alice.calls("PUT", in_room, {"here": True})
    assert (await alice.calls("GET", in_room)).json == {"here": True}
    assert (await alice.calls("GET", path)).json == content
    for method, body in (("GET", None), ("PUT", {})):
        answer = await bob.calls(method, path, body)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_each_change_takes_a_position_and_wakes_its_owner(server: AccountServer) -> None:
    alice = await server.has("alice")
    user_id = UserID(alice.user_id)
    before = server.stream.position
    with server.stream.listen(user_id, "OTHER") as listener:
        await alice.calls("PUT", _mine(alice, "account_data/a.b"), {"n": 1})
        assert await listener.heard(5)
    middle = server.stream.position
    await alice.calls("PUT", _mine(alice, f"rooms/{ROOM}/account_data/a.b"), {"n": 2})
    await alice.calls("PUT", _mine(alice, "account_data/a.b"), {"n": 3})

    everything = await find_account_data(server.db, user_id, 0, server.stream.position)
    assert [(d.room_id, d.content) for d in everything] == [
        (ROOM, b'{"n":2}'),
        ("", b'{"n":3}'),
    ]
    assert await find_account_data(server.db, user_id, before, middle) == []
    newest = await find_account_data(server.db, user_id, middle + 1, server.stream.position)
    assert [d.content for d in newest] == [b'{"n":3}']


async def test_what_the_server_manages_cannot_be_set(server: AccountServer) -> None:
    alice = await server.has("alice")
    for kind in ("m.fully_read", "m.push_rules"):
        for path in (f"account_data/{kind}", f"rooms/{ROOM}/account_data/{kind}"):
            answer = await alice.calls("PUT", _mine(alice, path), {})
            assert (answer.status, answer.errcode) == (405, "M_BAD_JSON")
    rules = await alice.calls("GET", _mine(alice, "account_data/m.push_rules"))
    assert "override" in rules.json["global"]


async def test_odd_account_data_is_refused(server: AccountServer) -> None:
    alice = await server.has("alice")
    path = _mine(alice, "account_data/a.b")
    for raw, errcode in (
        (b"[]", "M_BAD_JSON"),
        (b"nonsense", "M_NOT_JSON"),
        (b'{"a": "\\ud800"}', "M_NOT_JSON"),
        (b'{"a": NaN}', "M_NOT_JSON"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "M_BAD_JSON"),
        (b'{"a": ' + b"[" * 50_000, "M_NOT_JSON"),
    ):
        answer = await alice.calls("PUT", path, raw=raw)
        assert (answer.status, answer.errcode) == (400, errcode), raw[:20]
    big = await alice.calls("PUT", path, {"a": "x" * 2_000_000})
    assert (big.status, big.errcode) == (413, "M_TOO_LARGE")
    for rest in (
        "account_data/a%00b",
        "account_data/" + "x" * 300,
        "rooms/nonsense/account_data/a.b",
        "rooms/!a%00:b/account_data/a.b",
    ):
        assert (await alice.calls("PUT", _mine(alice, rest), {})).errcode == "M_INVALID_PARAM"
    assert (await alice.calls("GET", path)).status == 404


async def test_tags_are_set_listed_and_removed_by_several_devices_at_once(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    tags = _mine(alice, f"rooms/{ROOM}/tags")
    assert (await alice.calls("GET", tags)).json == {"tags": {}}
    await asyncio.gather(
        *(alice.calls("PUT", f"{tags}/u.{n}", {"order": n / 10}) for n in range(6))
    )
    await asyncio.gather(*(alice.calls("DELETE", f"{tags}/u.{n}") for n in range(1, 6)))
    assert (await alice.calls("GET", tags)).json == {"tags": {"u.0": {"order": 0}}}
    shown = await alice.calls("GET", _mine(alice, f"rooms/{ROOM}/account_data/m.tag"))
    assert shown.json == {"tags": {"u.0": {"order": 0}}}


async def test_tags_that_are_none_are_refused(server: AccountServer) -> None:
    alice = await server.has("alice")
    path = _mine(alice, f"rooms/{ROOM}/account_data/m.tag")
    content: dict[str, Any]
    for content in ({"tags": []}, {"tags": {"u.a": 5}}, {}):
        assert (await alice.calls("PUT", path, content)).errcode == "M_BAD_JSON"
    many: dict[str, Any] = {"tags": {f"u.{n}": {} for n in range(101)}}
    assert (await alice.calls("PUT", path, many)).errcode == "M_INVALID_PARAM"


async def test_a_filter_gets_the_same_id_every_time_and_is_its_owners(
    server: AccountServer,
) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    body = {"room": {"timeline": {"limit": 10, "types": ["m.*"]}}, "event_format": "client"}
    first = (await alice.calls("POST", _mine(alice, "filter"), body)).json["filter_id"]
    again = (await alice.calls("POST", _mine(alice, "filter"), body)).json["filter_id"]
    assert first == again
    assert not first.startswith("{")
    assert (await alice.calls("GET", _mine(alice, f"filter/{first}"))).json == body
    assert (await bob.calls("GET", _mine(bob, f"filter/{first}"))).errcode == "M_NOT_FOUND"
    assert (await bob.calls("GET", _mine(alice, f"filter/{first}"))).errcode == "M_FORBIDDEN"

    filters, user_id = server.services.filters, UserID(alice.user_id)
    resolved = await filters.resolve(user_id, first)
    assert (resolved.room.timeline.limit, resolved.room.timeline.types) == (10, ("m.*",))
    inline = await filters.resolve(user_id, '{"room": {"rooms": []}}')
    assert inline.room.rooms == ()
    assert await filters.resolve(user_id, None) == Filter()


async def test_what_is_no_filter_is_refused(server: AccountServer) -> None:
    alice = await server.has("alice")
    for body in (
        {"room": 5},
        {"room": {"timeline": {"limit": "10"}}},
        {"room": {"timeline": {"limit": -1}}},
        {"event_fields": "content"},
        {"event_format": "json"},
        {"presence": {"types": [5]}},
        {"x": "y" * 70_000},
    ):
        answer = await alice.calls("POST", _mine(alice, "filter"), body)
        assert (answer.status, answer.errcode) == (400, "M_BAD_JSON"), body
    for filter_id, status in (("nonsense", 404), ("x" * 5000, 404), ("a%00b", 400)):
        asked = await alice.calls("GET", _mine(alice, f"filter/{filter_id}"))
        assert asked.status == status, filter_id


async def test_push_rules_are_added_changed_and_removed(server: AccountServer) -> None:
    alice = await server.has("alice")
    rule = "/v3/pushrules/global/content/cake"
    body: dict[str, Any] = {"actions": ["notify"], "pattern": "cake*"}
    before = server.stream.position
    assert (await alice.calls("PUT", rule, body)).json == {}
    assert server.stream.position > before
    shown = (await alice.calls("GET", rule)).json
    assert (shown["pattern"], shown["enabled"], shown["default"]) == ("cake*", True, False)
    assert (await alice.calls("PUT", f"{rule}/enabled", {"enabled": False})).json == {}
    assert (await alice.calls("GET", f"{rule}/enabled")).json == {"enabled": False}
    loud = [{"set_tweak": "sound", "value": "default"}]
    await alice.calls("PUT", f"{rule}/actions", {"actions": loud})
    assert (await alice.calls("GET", f"{rule}/actions")).json == {"actions": loud}
    for path in ("/v3/pushrules/", "/r0/pushrules/"):
        rules = (await alice.calls("GET", path)).json["global"]
        assert [rule["rule_id"] for rule in rules["content"]] == ["cake"]
    whole = (await alice.calls("GET", "/v3/pushrules/global/")).json
    assert [rule["rule_id"] for rule in whole["content"]] == ["cake"]
    assert (await alice.calls("DELETE", rule)).json == {}
    assert (await alice.calls("GET", rule)).errcode == "M_NOT_FOUND"


async def test_a_change_of_a_default_rule_is_kept_and_concerns_its_owner_only(
    server: AccountServer,
) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    path = "/v3/pushrules/global/underride/.m.rule.message/enabled"
    await alice.calls("PUT", path, {"enabled": False})
    assert (await alice.calls("GET", path)).json == {"enabled": False}
    assert (await bob.calls("GET", path)).json == {"enabled": True}
    compiled = await server.services.push_rules.get_compiled(
        [UserID(alice.user_id), UserID(bob.user_id)]
    )
    assert compiled[UserID(alice.user_id)] != compiled[UserID(bob.user_id)]
    await alice.calls("PUT", path, {"enabled": True})
    compiled = await server.services.push_rules.get_compiled(
        [UserID(alice.user_id), UserID(bob.user_id)]
    )
    assert compiled[UserID(alice.user_id)] == compiled[UserID(bob.user_id)]


async def test_devices_that_change_rules_at_once_lose_nothing(server: AccountServer) -> None:
    alice = await server.has("alice")
    body = {"actions": [], "pattern": "x"}
    answers = await asyncio.gather(
        *(alice.calls("PUT", f"/v3/pushrules/global/content/r{n}", body) for n in range(4))
    )
    assert {answer.status for answer in answers} == {200}
    rules = (await alice.calls("GET", "/v3/pushrules/")).json["global"]["content"]
    assert {rule["rule_id"] for rule in rules} == {"r0", "r1", "r2", "r3"}


async def test_odd_push_rules_are_refused(server: AccountServer) -> None:
    alice = await server.has("alice")
    good = {"actions": ["notify"], "pattern": "x"}
    cases: list[tuple[str, str, object, int, str]] = [
        ("PUT", "nonsense/r", good, 400, "M_INVALID_PARAM"),
        ("PUT", "content/.m.rule.mine", good, 400, "M_INVALID_PARAM"),
        ("PUT", "content/a%2Fb", good, 400, "M_INVALID_PARAM"),
        ("PUT", "content/r", {}, 400, "M_MISSING_PARAM"),
        ("PUT", "content/r", {"actions": "notify", "pattern": "x"}, 400, "M_INVALID_PARAM"),
        ("PUT", "content/r?before=nothing", good, 400, "M_UNKNOWN"),
        ("GET", "content/none", None, 404, "M_NOT_FOUND"),
        ("DELETE", "content/none", None, 404, "M_NOT_FOUND"),
        ("DELETE", "override/.m.rule.master", None, 400, "M_INVALID_PARAM"),
        ("PUT", "content/none/enabled", {"enabled": True}, 404, "M_NOT_FOUND"),
        ("PUT", "override/.m.rule.master/enabled", {"enabled": 1}, 400, "M_BAD_JSON"),
        ("PUT", "override/.m.rule.master/actions", {"actions": [5]}, 400, "M_INVALID_PARAM"),
    ]
    for method, path, body, status, errcode in cases:
        answer = await alice.calls(method, f"/v3/pushrules/global/{path}", body)
        assert (answer.status, answer.errcode) == (status, errcode), (method, path)


def _pusher(**changes: object) -> dict[str, Any]:
    return {
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": "key one",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "zh-CN",
        "data": {"url": "https://push.example.org/_matrix/push/v1/notify", "auth": "x"},
        **changes,
    }


async def test_pushers_are_set_changed_listed_and_deleted(server: AccountServer) -> None:
    alice = await server.has("alice")
    assert (await alice.calls("POST", "/v3/pushers/set", _pusher(profile_tag="t"))).json == {}
    assert (await alice.calls("GET", "/v3/pushers")).json == {"pushers": [_pusher(profile_tag="t")]}
    await alice.calls("POST", "/v3/pushers/set", _pusher(lang="en"))
    assert (await alice.calls("GET", "/v3/pushers")).json == {"pushers": [_pusher(lang="en")]}
    gone = {"kind": None, "app_id": "org.example.app", "pushkey": "key one"}
    assert (await alice.calls("POST", "/v3/pushers/set", gone)).json == {}
    assert (await alice.calls("GET", "/v3/pushers")).json == {"pushers": []}


async def test_a_pusher_moves_to_the_next_person_on_the_phone_unless_appended(
    server: AccountServer,
) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    await alice.calls("POST", "/v3/pushers/set", _pusher())
    await bob.calls("POST", "/v3/pushers/set", _pusher(append=True))
    assert len((await alice.calls("GET", "/v3/pushers")).json["pushers"]) == 1
    await bob.calls("POST", "/v3/pushers/set", _pusher())
    assert (await alice.calls("GET", "/v3/pushers")).json == {"pushers": []}
    assert len((await bob.calls("GET", "/v3/pushers")).json["pushers"]) == 1


async def test_signing_out_removes_what_the_device_set(server: AccountServer) -> None:
    phone, laptop = await server.has("alice"), await server.sign_in("alice")
    await phone.calls("POST", "/v3/pushers/set", _pusher())
    await laptop.calls("POST", "/v3/pushers/set", _pusher(pushkey="key two"))
    await phone.calls("POST", "/v3/logout")
    left = (await laptop.calls("GET", "/v3/pushers")).json["pushers"]
    assert [pusher["pushkey"] for pusher in left] == ["key two"]


async def test_odd_pushers_are_refused(server: AccountServer) -> None:
    alice = await server.has("alice")

    def to(url: object) -> dict[str, Any]:
        return _pusher(data={"url": url})

    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "M_MISSING_PARAM"),
        ({"kind": "http", "app_id": "a", "pushkey": "k"}, "M_MISSING_PARAM"),
        (_pusher(kind="email"), "M_INVALID_PARAM"),
        (_pusher(kind=5), "M_INVALID_PARAM"),
        (_pusher(app_id="x" * 65), "M_INVALID_PARAM"),
        (_pusher(pushkey="x" * 513), "M_INVALID_PARAM"),
        (_pusher(pushkey="a\x00"), "M_INVALID_PARAM"),
        (_pusher(lang=5), "M_INVALID_PARAM"),
        (_pusher(append="yes"), "M_INVALID_PARAM"),
        (_pusher(data=[]), "M_INVALID_PARAM"),
        (_pusher(data={}), "M_MISSING_PARAM"),
        (to("https://push.example.org/other"), "M_INVALID_PARAM"),
        (to("https://push.example.org/_matrix/push/v1/notify?x"), "M_INVALID_PARAM"),
        (to("file:///_matrix/push/v1/notify"), "M_INVALID_PARAM"),
        (to("https:///_matrix/push/v1/notify"), "M_INVALID_PARAM"),
        (to("https://[/_matrix/push/v1/notify"), "M_INVALID_PARAM"),
        (to("https://h:99999/_matrix/push/v1/notify"), "M_INVALID_PARAM"),
    ]
    for body, errcode in cases:
        answer = await alice.calls("POST", "/v3/pushers/set", body)
        assert (answer.status, answer.errcode) == (400, errcode), body
    assert (await alice.calls("GET", "/v3/pushers")).json == {"pushers": []}


async def test_the_number_of_pushers_is_bounded(server: AccountServer) -> None:
    alice = await server.has("alice")
    for number in range(100):
        await alice.calls("POST", "/v3/pushers/set", _pusher(pushkey=f"key {number}"))
    refused = await alice.calls("POST", "/v3/pushers/set", _pusher(pushkey="one more"))
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    assert (await alice.calls("POST", "/v3/pushers/set", _pusher(pushkey="key 7"))).status == 200
