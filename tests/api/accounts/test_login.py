from __future__ import annotations

import asyncio
import time

from yizhan_testing.account_server import (
    PASSWORD,
    AccountServer,
    Person,
    StartServer,
    password_login,
)


async def test_a_person_signs_in_by_user_name_full_id_or_the_old_key(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    for user in ("alice", "@alice:home.test", "Alice"):
        answer = await server.call("POST", "/v3/login", password_login(user))
        assert (answer.status, answer.json["user_id"]) == (200, "@alice:home.test")
    old = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
    assert (await server.call("POST", "/r0/login", old)).status == 200
    whoami = await alice.calls("GET", "/v3/account/whoami")
    assert whoami.json == {
        "user_id": alice.user_id,
        "device_id": alice.device_id,
        "is_guest": False,
    }


async def test_a_wrong_password_an_unknown_user_and_another_server_look_alike(
    server: AccountServer,
) -> None:
    await server.has("alice")
    bodies = [
        password_login("alice", "wrong"),
        password_login("nobody"),
        password_login("@alice:elsewhere.test"),
        password_login("alice", "x" * 5000),
    ]
    answers = [await server.call("POST", "/v3/login", body) for body in bodies]
    assert {(answer.status, answer.errcode) for answer in answers} == {(403, "M_FORBIDDEN")}
    assert len({answer.json["error"] for answer in answers}) == 1


async def test_an_unknown_user_costs_the_server_as_much_as_a_wrong_password(
    server: AccountServer,
) -> None:
    await server.has("alice")
    await server.call("POST", "/v3/login", password_login("nobody"))  # makes the dummy hash

    async def work(user: str) -> float:
        # Processor time of all threads, for the machine may be busy with other things.
        start = time.process_time()
        for _ in range(5):
            await server.call("POST", "/v3/login", password_login(user, "wrong"))
        return time.process_time() - start

    wrong, unknown = await work("alice"), await work("nobody")
    assert wrong / 3 < unknown < wrong * 3


async def test_what_login_cannot_use_is_refused_with_a_reason(server: AccountServer) -> None:
    await server.has("alice")
    cases: list[tuple[object, int, str]] = [
        ({}, 400, "M_BAD_JSON"),
        ({"type": 5}, 400, "M_BAD_JSON"),
        ({"type": "m.login.sso"}, 400, "M_UNKNOWN"),
        ({"type": "m.login.password"}, 400, "M_MISSING_PARAM"),
        (password_login("alice") | {"password": None}, 400, "M_MISSING_PARAM"),
        (password_login("alice") | {"identifier": {"type": "m.id.phone"}}, 403, "M_FORBIDDEN"),
        (password_login("alice") | {"identifier": {"type": "m.id.user"}}, 400, "M_BAD_JSON"),
        (password_login("alice", device_id="a\x00b"), 400, "M_BAD_JSON"),
        (password_login("alice", device_id="d" * 256), 400, "M_INVALID_PARAM"),
        ({"type": "m.login.token"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.token", "token": "\x00"}, 400, "M_BAD_JSON"),
        ([], 400, "M_BAD_JSON"),
    ]
    for body, status, errcode in cases:
        answer = await server.call("POST", "/v3/login", body)
        assert (answer.status, answer.errcode) == (status, errcode), body
    deep = b'{"type": "m.login.password", "identifier": {"x": ' + b"[" * 100_000
    assert (await server.call("POST", "/v3/login", raw=deep)).status == 400
    for raw in (b"{", b"\xff", b'{"type":"\\ud800"}'):
        answer = await server.call("POST", "/v3/login", raw=raw)
        assert (answer.status, answer.errcode) == (400, "M_NOT_JSON"), raw[:20]


async def test_signing_in_again_on_a_device_ends_its_earlier_token(server: AccountServer) -> None:
    first = await server.has("alice")
    again = await server.sign_in("alice", device_id=first.device_id)
    assert again.device_id == first.device_id
    assert await again.is_signed_in()
    assert not await first.is_signed_in()
    assert await again.device_ids() == [first.device_id]


async def test_signing_out_ends_the_token_and_the_device(server: AccountServer) -> None:
    phone, laptop = await server.has("alice"), await server.sign_in("alice")
    assert (await phone.calls("POST", "/v3/logout")).json == {}
    assert not await phone.is_signed_in()
    assert (await phone.calls("GET", "/v3/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
    assert await laptop.is_signed_in()
    assert await laptop.device_ids() == [laptop.device_id]


async def test_signing_out_everywhere_ends_all_devices_of_that_user_only(
    server: AccountServer,
) -> None:
    phone, laptop = await server.has("alice"), await server.sign_in("alice")
    bob = await server.has("bob")
    assert (await phone.calls("POST", "/v3/logout/all")).json == {}
    assert [await p.is_signed_in() for p in (phone, laptop, bob)] == [False, False, True]
    again = await server.sign_in("alice")
    assert await again.device_ids() == [again.device_id]


async def test_a_token_is_missing_unknown_or_garbage(server: AccountServer) -> None:
    missing = await server.call("GET", "/v3/account/whoami")
    assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN")
    for token in ("yat_unknown", "x" * 5000, "\u00e9\u4e2d"):
        answer = await server.call("GET", "/v3/account/whoami", token=token)
        assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")


async def test_the_database_holds_no_token_and_no_password(server: AccountServer) -> None:
    alice = await server.sign_in((await server.has("alice")).user_id, refresh_token=True)
    secrets = [alice.token, alice.session["refresh_token"], PASSWORD]
    for table in ("account", "access_token", "refresh_token"):
        for row in await server.db.rows(f"SELECT * FROM {table}"):
            for cell in row:
                text = cell if isinstance(cell, bytes) else str(cell).encode()
                assert not any(secret.encode() in text for secret in secrets)


async def test_a_sign_in_token_opens_one_session_for_its_owner(server: AccountServer) -> None:
    alice = await server.has("alice")
    made = await alice.confirms("POST", "/v1/login/get_token", {})
    assert made.status == 200
    assert made.json["expires_in_ms"] == 120_000
    body = {"type": "m.login.token", "token": made.json["login_token"]}
    # Two clients at once: only one of them may have it.
    answers = await asyncio.gather(*(server.call("POST", "/v3/login", body) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 403, 403, 403]
    opened = next(answer for answer in answers if answer.status == 200)
    assert opened.json["user_id"] == alice.user_id


async def test_a_sign_in_token_expires(server: AccountServer) -> None:
    alice = await server.has("alice")
    made = await alice.confirms("POST", "/v1/login/get_token", {})
    server.clock.pass_seconds(121)
    body = {"type": "m.login.token", "token": made.json["login_token"]}
    assert (await server.call("POST", "/v3/login", body)).errcode == "M_FORBIDDEN"


async def test_guessing_is_limited_per_account_however_many_devices_guess(
    start_server: StartServer,
) -> None:
    server = await start_server(
        rate_limits__enabled=True, rate_limits__login={"per_second": 0.1, "burst": 3}
    )
    await server.services.accounts.create("alice", PASSWORD)
    accounts = server.services.accounts
    statuses = []
    for _ in range(5):
        try:
            await accounts.check_password("alice", "guess")
        except Exception as error:  # noqa: BLE001 - what is raised is what is compared
            statuses.append(getattr(error, "status", error))
    assert statuses == [403, 403, 403, 429, 429]


async def test_who_shares_an_address_with_many_refreshes_all_the_same(
    start_server: StartServer,
) -> None:
    server = await start_server(
        rate_limits__enabled=True, rate_limits__login={"per_second": 0.001, "burst": 2}
    )
    alice = await server.has("alice")
    phone = await server.sign_in(alice.user_id, refresh_token=True)
    token = phone.session["refresh_token"]
    for _ in range(5):
        token = (await _refreshed(server, token)).session["refresh_token"]


async def test_the_addresses_of_one_ipv6_network_are_counted_as_one(
    start_server: StartServer,
) -> None:
    server = await start_server(
        rate_limits__enabled=True,
        rate_limits__login={"per_second": 0.001, "burst": 3},
        listen__trusted_proxies=["127.0.0.0/8"],
    )

    async def guesses(address: str) -> int:
        url = f"{server.url}/_matrix/client/v3/register/available?username=x"
        async with server.http.get(url, headers={"X-Forwarded-For": address}) as response:
            return response.status

    of_one = [await guesses(f"2001:db8:1:2::{number}") for number in range(1, 5)]
    assert 429 not in of_one[:3]
    assert of_one[3] == 429
    for other in ("2001:db8:1:3::1", "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3"):
        assert await guesses(other) != 429


async def _refreshed(server: AccountServer, token: str) -> Person:
    answer = await server.call("POST", "/v3/refresh", {"refresh_token": token})
    assert answer.status == 200, answer.json
    return Person(server, answer.json)


async def test_an_access_token_that_can_be_refreshed_expires_softly(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    short = await server.sign_in("alice", refresh_token=True)
    lifetime_ms = short.session["expires_in_ms"]
    server.clock.pass_seconds(lifetime_ms / 1000 + 1)
    answer = await short.calls("GET", "/v3/account/whoami")
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert answer.json["soft_logout"] is True
    assert await alice.is_signed_in()  # who did not ask for refreshing has a lasting token

    fresh = await _refreshed(server, short.session["refresh_token"])
    assert await fresh.is_signed_in()


async def test_a_refresh_whose_answer_was_lost_can_be_repeated(server: AccountServer) -> None:
    await server.has("alice")
    old = await server.sign_in("alice", refresh_token=True)
    lost = await _refreshed(server, old.session["refresh_token"])
    again = await _refreshed(server, old.session["refresh_token"])
    assert await old.is_signed_in()
    assert await again.is_signed_in()
    assert not await lost.is_signed_in()


async def test_the_first_use_of_a_new_token_ends_the_old_pair(server: AccountServer) -> None:
    await server.has("alice")
    old = await server.sign_in("alice", refresh_token=True)
    assert await old.is_signed_in()
    new = await _refreshed(server, old.session["refresh_token"])
    # Several first uses at once must not take the new refresh token along.
    assert all(await asyncio.gather(*(new.is_signed_in() for _ in range(5))))
    assert not await old.is_signed_in()
    refused = await server.call(
        "POST", "/v3/refresh", {"refresh_token": old.session["refresh_token"]}
    )
    assert (refused.status, refused.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert await (await _refreshed(server, new.session["refresh_token"])).is_signed_in()


async def test_the_use_of_a_new_refresh_token_ends_the_old_one_too(server: AccountServer) -> None:
    await server.has("alice")
    first = await server.sign_in("alice", refresh_token=True)
    second = await _refreshed(server, first.session["refresh_token"])
    third = await _refreshed(server, second.session["refresh_token"])
    refused = await server.call(
        "POST", "/v3/refresh", {"refresh_token": first.session["refresh_token"]}
    )
    assert refused.status == 401
    assert await third.is_signed_in()


async def test_signing_out_ends_the_refresh_token(server: AccountServer) -> None:
    await server.has("alice")
    alice = await server.sign_in("alice", refresh_token=True)
    await alice.calls("POST", "/v3/logout")
    refused = await server.call(
        "POST", "/v3/refresh", {"refresh_token": alice.session["refresh_token"]}
    )
    assert (refused.status, refused.json.get("soft_logout", False)) == (401, False)


async def test_a_lock_refuses_everything_but_signing_out_and_ends_without_loss(
    server: AccountServer,
) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    administration = server.administration
    assert await alice.is_signed_in()
    await administration.set_locked("test", "alice", is_locked=True)

    for path in ("/v3/account/whoami", "/v3/devices"):
        answer = await alice.calls("GET", path)
        assert (answer.status, answer.errcode) == (401, "M_USER_LOCKED")
        assert answer.json["soft_logout"] is True
    login = await server.call("POST", "/v3/login", password_login("alice"))
    assert (login.status, login.errcode) == (401, "M_USER_LOCKED")
    assert await bob.is_signed_in()

    await administration.set_locked("test", "alice", is_locked=False)
    assert await alice.is_signed_in()
    await administration.set_locked("test", "alice", is_locked=True)
    assert (await alice.calls("POST", "/v3/logout")).status == 200


async def test_a_sign_in_under_the_old_password_does_not_survive_its_change(
    server: AccountServer,
) -> None:
    await server.has("alice")
    accounts = server.services.accounts
    account = await accounts.check_password("alice", PASSWORD)
    await server.administration.set_password(
        "test", "alice", password="another password", keep_devices=True
    )
    answer = None
    try:
        await accounts.sign_in(account, device_id=None, display_name=None, refreshable=False)
    except Exception as error:  # noqa: BLE001
        answer = getattr(error, "status", error)
    assert answer == 403
