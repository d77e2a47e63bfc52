from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_testing.account_server import PASSWORD, password_login

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer

NEW = "a brand new password"


async def test_a_changed_password_replaces_the_old_one_and_ends_other_sessions(
    server: AccountServer,
) -> None:
    phone, laptop = await server.has("alice"), await server.sign_in("alice")
    answer = await phone.confirms("POST", "/v3/account/password", {"new_password": NEW})
    assert answer.json == {}
    assert await phone.is_signed_in()
    assert not await laptop.is_signed_in()
    assert await phone.device_ids() == [phone.device_id]
    assert (await server.call("POST", "/v3/login", password_login("alice"))).status == 403
    assert (await server.call("POST", "/v3/login", password_login("alice", NEW))).status == 200


async def test_other_sessions_stay_when_the_owner_says_so(server: AccountServer) -> None:
    phone, laptop = await server.has("alice"), await server.sign_in("alice")
    body = {"new_password": NEW, "logout_devices": False}
    assert (await phone.confirms("POST", "/v3/account/password", body)).status == 200
    assert await laptop.is_signed_in()


async def test_a_password_is_changed_only_by_whoever_knows_the_old_one(
    server: AccountServer,
) -> None:
    alice, _ = await server.has("alice"), await server.has("bob")
    body = {"new_password": NEW}
    wrong = await alice.confirms("POST", "/v3/account/password", body, password="guess")
    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    assert wrong.json["flows"] == [{"stages": ["m.login.password"]}]
    useless: list[dict[str, Any]] = [
        {"type": "m.login.dummy"},
        {"type": "m.login.registration_token", "token": "x"},
        {"type": ["m.login.password"], "password": PASSWORD},
        {},
    ]
    for auth in useless:
        answer = await alice.calls("POST", "/v3/account/password", {**body, "auth": auth})
        assert answer.status == 401, auth
    # Bob's password, which is right, does not speak for Alice.
    auth = {"type": "m.login.password", "user": "bob", "password": PASSWORD}
    answer = await alice.calls("POST", "/v3/account/password", {**body, "auth": auth})
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert (await server.call("POST", "/v3/login", password_login("alice"))).status == 200


async def test_null_confirmation_counts_as_none(server: AccountServer) -> None:
    # What clients send first for device_signing/upload and others.
    alice = await server.has("alice")
    answer = await alice.calls("POST", "/v3/account/password", {"new_password": NEW, "auth": None})
    assert (answer.status, "errcode" in answer.json) == (401, False)


async def test_odd_confirmations_are_refused_without_a_server_error(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    odd: list[Any] = [
        5,
        [],
        {"type": "m.login.password"},
        {"type": "m.login.password", "password": 5},
        {"type": "m.login.password", "password": PASSWORD, "identifier": []},
        {"type": "m.login.password", "password": PASSWORD, "session": 5},
        {"type": "m.login.password", "password": PASSWORD, "session": "\x00"},
        {"type": "m.login.password", "password": PASSWORD, "session": "x" * 5000},
    ]
    for auth in odd:
        answer = await alice.calls(
            "POST", "/v3/account/password", {"new_password": NEW, "auth": auth}
        )
        assert answer.status == 400, auth
    weak = await alice.calls("POST", "/v3/account/password", {"new_password": "x"})
    assert (weak.status, weak.errcode) == (400, "M_WEAK_PASSWORD")


async def test_a_deactivated_account_is_gone_and_its_name_is_not_given_again(
    server: AccountServer,
) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    await alice.calls("PUT", f"/v3/profile/{alice.user_id}/displayname", {"displayname": "A"})
    await alice.calls("PUT", f"/v3/user/{alice.user_id}/account_data/x.y", {"z": 1})

    gone = await alice.confirms("POST", "/v3/account/deactivate", {"erase": True})
    assert gone.json == {"id_server_unbind_result": "success"}
    assert not await alice.is_signed_in()
    login = await server.call("POST", "/v3/login", password_login("alice"))
    assert (login.status, login.errcode) == (403, "M_USER_DEACTIVATED")
    assert (await bob.calls("GET", f"/v3/profile/{alice.user_id}")).status == 404
    for table in ("account_data", "profile_field", "access_token", "device"):
        mine = f"SELECT user_id FROM {table} WHERE user_id = ?"
        assert await server.db.rows(mine, alice.user_id) == []
    refused = await server.services.accounts.find(server.services.accounts.check_name("alice"))
    assert refused is not None
    assert refused.is_deactivated
