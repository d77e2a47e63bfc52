"""What administrators do to accounts and devices from afar, and what they may not."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person, Refused

ADMIN = "/_synapse/admin"


def of(person: Person | str) -> str:
    return quote(person if isinstance(person, str) else person.user_id, safe="")


async def record_of(admin: Person) -> list[tuple[str, str, JsonObject]]:
    """The acts of the administrator, oldest first."""
    acts = (await admin.get("/_yizhan/admin/v1/record"))["record"]
    return [
        (act["action"], act["subject"], act["details"])
        for act in reversed(acts)
        if act["actor"] == admin.user_id
    ]


async def test_accounts_are_listed_filtered_sorted_and_paged(
    homeserver: HomeserverInProcess, admin: Person, alice: Person, bob: Person
) -> None:
    await alice.put(f"/v3/profile/{of(alice)}/displayname", {"displayname": "阿丽"})
    zoe = await homeserver.person("zoe")
    await admin.put(f"/v1/admin/lock/{of(bob)}", {"locked": True})
    await admin.post(f"{ADMIN}/v1/deactivate/{of(zoe)}", {})

    async def names(**params: str) -> list[str]:
        users = (await admin.get(f"{ADMIN}/v2/users", **params))["users"]
        return [user["name"][1:].partition(":")[0] for user in users]

    assert await names() == ["admin", "alice"]
    assert await names(locked="true", deactivated="true") == ["admin", "alice", "bob", "zoe"]
    assert await names(dir="b") == ["alice", "admin"]
    assert await names(name="阿") == ["alice"]
    assert await names(user_id="LIC") == ["alice"]
    assert await names(admins="true") == ["admin"]
    assert await names(order_by="creation_ts", dir="b", admins="false") == ["alice"]
    page = await admin.get(f"{ADMIN}/v2/users", limit="1")
    assert (page["total"], page["next_token"]) == (2, "1")
    rest = await admin.get(f"{ADMIN}/v2/users", **{"from": page["next_token"]})
    [user] = rest["users"]
    assert (user["name"], user["displayname"]) == (alice.user_id, "阿丽")
    assert user["last_seen_ts"] is None or user["last_seen_ts"] > 0
    assert "next_token" not in rest
    ended = await admin.get(f"{ADMIN}/v3/users", deactivated="true")
    assert [user["name"] for user in ended["users"]] == [zoe.user_id]
    with pytest.raises(Refused) as refused:
        await admin.get(f"{ADMIN}/v2/users", order_by="colour")
    assert refused.value.errcode == "M_INVALID_PARAM"


async def test_an_account_is_created_changed_ended_and_given_back(
    homeserver: HomeserverInProcess, admin: Person
) -> None:
    carl = "@carl:test.example"
    made = await admin.put(
        f"{ADMIN}/v2/users/{of(carl)}",
        {"password": "a first password", "displayname": "小卡", "threepids": []},
    )
    assert (made["name"], made["displayname"], made["admin"]) == (carl, "小卡", False)
    phone = await homeserver.signs_in("carl", "a first password")
    await admin.put(
        f"{ADMIN}/v2/users/{of(carl)}",
        {"password": "a second password", "logout_devices": False, "displayname": ""},
    )
    assert (await phone.get("/v3/account/whoami"))["user_id"] == carl
    shown = await admin.get(f"{ADMIN}/v2/users/{of(carl)}")
    assert shown["displayname"] is None
    assert shown["creation_ts"] < 10**11
    await admin.put(f"{ADMIN}/v2/users/{of(carl)}", {"locked": True})
    assert (await phone.refused("GET", "/v3/sync")).errcode == "M_USER_LOCKED"
    await admin.put(f"{ADMIN}/v2/users/{of(carl)}", {"locked": False, "admin": True})
    assert await phone.get(f"{ADMIN}/v1/users/{of(carl)}/admin") == {"admin": True}
    await admin.put(f"{ADMIN}/v1/users/{of(carl)}/admin", {"admin": False})
    await admin.put(f"{ADMIN}/v2/users/{of(carl)}", {"deactivated": True})
    assert (await phone.refused("GET", "/v3/sync")).errcode == "M_UNKNOWN_TOKEN"
    await admin.put(
        f"{ADMIN}/v2/users/{of(carl)}", {"deactivated": False, "password": "a third password"}
    )
    again = await homeserver.signs_in("carl", "a third password")
    assert (await again.get("/v3/account/whoami"))["user_id"] == carl

    assert await record_of(admin) == [
        ("add", carl, {"admin": False}),
        ("profile", carl, {"field": "displayname"}),
        ("password", carl, {"keep_devices": True}),
        ("profile", carl, {"field": "displayname"}),
        ("lock", carl, {}),
        ("admin", carl, {}),
        ("unlock", carl, {}),
        ("admin_revoke", carl, {}),
        ("deactivate", carl, {"erase": False}),
        ("reactivate", carl, {}),
        ("password", carl, {"keep_devices": False}),
    ]


async def test_a_password_is_set_and_ends_the_sessions(
    homeserver: HomeserverInProcess, admin: Person, alice: Person
) -> None:
    path = f"{ADMIN}/v1/reset_password/{of(alice)}"
    await admin.post(path, {"new_password": "quite another one", "logout_devices": False})
    assert (await alice.get("/v3/account/whoami"))["user_id"] == alice.user_id
    await admin.post(path, {"new_password": "and another one"})
    assert (await alice.refused("GET", "/v3/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
    await homeserver.signs_in("alice", "and another one")
    refused = await admin.refused("POST", path, {"new_password": "x"})
    assert refused.errcode == "M_WEAK_PASSWORD"
    assert (await admin.refused("POST", path, {})).errcode == "M_BAD_JSON"


async def test_administrators_are_out_of_each_others_and_their_own_reach(
    homeserver: HomeserverInProcess, admin: Person
) -> None:
    other = await homeserver.person("other", admin=True)
    acts: list[tuple[str, str, JsonObject]] = [
        ("POST", "/v1/reset_password/{}", {"new_password": "a stolen password"}),
        ("POST", "/v1/deactivate/{}", {}),
        ("PUT", "/v1/suspend/{}", {"suspend": True}),
        ("PUT", "/v2/users/{}", {"password": "a stolen password"}),
        ("PUT", "/v2/users/{}", {"locked": True}),
        ("PUT", "/v2/users/{}", {"deactivated": True}),
        ("DELETE", f"/v2/users/{{}}/devices/{other.device_id}", {}),
        ("POST", "/v2/users/{}/delete_devices", {"devices": [other.device_id]}),
        ("PUT", f"/v2/users/{{}}/devices/{other.device_id}", {"display_name": "x"}),
    ]
    for method, path, body in acts:
        refused = await admin.refused(method, ADMIN + path.format(of(other)), body)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), path
    for method, path, body in [
        *acts[1:3], *acts[4:], ("PUT", "/v1/users/{}/admin", {"admin": False}),
        ("PUT", "/v2/users/{}", {"admin": False}),
    ]:  # fmt: skip
        refused = await admin.refused(method, ADMIN + path.format(of(admin)), body)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), path
    assert await record_of(admin) == []
    # With the rights taken away first, which is on the record, it can be done.
    await admin.put(f"{ADMIN}/v1/users/{of(other)}/admin", {"admin": False})
    await admin.post(f"{ADMIN}/v1/deactivate/{of(other)}", {"erase": True})
    assert [act[0] for act in await record_of(admin)] == ["admin_revoke", "deactivate"]


async def test_devices_are_listed_named_and_signed_out(
    homeserver: HomeserverInProcess, admin: Person, alice: Person
) -> None:
    phone = await homeserver.signs_in("alice")
    path = f"{ADMIN}/v2/users/{of(alice)}/devices"
    await phone.get("/v3/account/whoami")
    listed = await admin.get(path)
    assert listed["total"] == 2
    assert {each["device_id"] for each in listed["devices"]} == {alice.device_id, phone.device_id}
    await admin.put(f"{path}/{phone.device_id}", {"display_name": "公务手机"})
    device = await admin.get(f"{path}/{phone.device_id}")
    assert (device["display_name"], device["user_id"]) == ("公务手机", alice.user_id)
    assert "aiohttp" in device["last_seen_user_agent"]
    await admin.delete(f"{path}/{phone.device_id}")
    assert (await phone.refused("GET", "/v3/sync")).errcode == "M_UNKNOWN_TOKEN"
    await admin.post(
        f"{ADMIN}/v2/users/{of(alice)}/delete_devices", {"devices": [alice.device_id, "NONE"]}
    )
    assert (await admin.get(path))["devices"] == []
    assert (await admin.refused("GET", f"{path}/NONE")).errcode == "M_NOT_FOUND"
    refused = await admin.refused("PUT", f"{path}/NONE", {"display_name": "x"})
    assert refused.errcode == "M_NOT_FOUND"
    assert await record_of(admin) == [
        ("rename_device", alice.user_id, {"device": phone.device_id}),
        ("end_devices", alice.user_id, {"devices": [phone.device_id]}),
        ("end_devices", alice.user_id, {"devices": [alice.device_id, "NONE"]}),
    ]


async def test_where_somebody_was_last_seen_is_told_to_oneself_and_administrators(
    homeserver: HomeserverInProcess, admin: Person, alice: Person, bob: Person
) -> None:
    await alice.get("/v3/account/whoami")
    for asking, path in (
        (alice, "/v3/admin/whois"), (admin, "/v3/admin/whois"), (admin, f"{ADMIN}/v1/whois"),
    ):  # fmt: skip
        seen = await asking.get(f"{path}/{of(alice)}")
        assert seen["user_id"] == alice.user_id
        [session] = seen["devices"][alice.device_id]["sessions"]
        [connection] = session["connections"]
        assert connection["ip"] == "127.0.0.1"
        assert "aiohttp" in connection["user_agent"]
        assert connection["last_seen"] > 0
    refused = await bob.refused("GET", f"/v3/admin/whois/{of(alice)}")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    # What was seen is kept when the server tidies, the program included.
    await homeserver.parts.services.sessions.tidy()
    seen = await admin.get(f"{ADMIN}/v1/whois/{of(alice)}")
    [connection] = seen["devices"][alice.device_id]["sessions"][0]["connections"]
    assert "aiohttp" in connection["user_agent"]


async def test_what_somebody_is_to_which_rooms_is_told(
    admin: Person, alice: Person, bob: Person
) -> None:
    first = await alice.creates_room(invite=[bob])
    second = await alice.creates_room(invite=[bob])
    await bob.joins(second)
    joined = await admin.get(f"{ADMIN}/v1/users/{of(bob)}/joined_rooms")
    assert joined == {"joined_rooms": [second], "total": 1}
    memberships = (await admin.get(f"{ADMIN}/v1/users/{of(bob)}/memberships"))["memberships"]
    assert memberships == {first: "invite", second: "join"}


async def test_what_there_is_not_cannot_be_administered(admin: Person) -> None:
    for user, errcode in (
        ("@nobody:test.example", "M_NOT_FOUND"),
        ("@x:elsewhere.example", "M_INVALID_PARAM"),
        ("nobody", "M_INVALID_PARAM"),
    ):
        for method, path, body in (
            ("GET", "/v2/users/{}", None),
            ("GET", "/v2/users/{}/devices", None),
            ("GET", "/v1/whois/{}", None),
            ("GET", "/v1/users/{}/admin", None),
            ("PUT", "/v1/users/{}/admin", {"admin": True}),
            ("PUT", "/v1/suspend/{}", {"suspend": True}),
            ("POST", "/v1/deactivate/{}", {}),
            ("POST", "/v1/reset_password/{}", {"new_password": "a new password"}),
        ):
            refused = await admin.refused(method, ADMIN + path.format(of(user)), body)
            assert refused.errcode == errcode, path
    wishes: list[tuple[str, JsonObject]] = [
        ("@x:elsewhere.example", {"password": "a new password"}),
        ("@Capital:test.example", {"password": "a new password"}),
        ("@new:test.example", {"password": "a new password", "locked": True}),
        ("@new:test.example", {"threepids": [{"medium": "email", "address": "a@b.c"}]}),
    ]
    for user, wish in wishes:
        refused = await admin.refused("PUT", f"{ADMIN}/v2/users/{of(user)}", wish)
        assert refused.errcode == "M_INVALID_PARAM", user
    assert await record_of(admin) == []


async def test_the_record_is_paged_and_names_the_server(admin: Person, alice: Person) -> None:
    for suspend in (True, False, True):
        await admin.put(f"{ADMIN}/v1/suspend/{of(alice)}", {"suspend": suspend})
    page = await admin.get("/_yizhan/admin/v1/record", limit="2")
    rest = await admin.get("/_yizhan/admin/v1/record", **{"from": str(page["next_token"])})
    acts = [(act["actor"], act["action"]) for act in (*page["record"], *rest["record"])]
    mine = [(admin.user_id, action) for action in ("suspend", "unsuspend", "suspend")]
    # Accounts made with the registration secret are there as well.
    assert acts == [*mine, *[("registration-secret", "add")] * 2]
    assert "next_token" not in rest
    version = await admin.get(f"{ADMIN}/v1/server_version")
    assert version["server_version"].startswith("Yizhan ")
