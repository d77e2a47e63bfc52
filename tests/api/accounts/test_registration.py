from __future__ import annotations

import asyncio
import hmac
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from yizhan_testing.account_server import PASSWORD, AccountServer, Answer, Person, StartServer

if TYPE_CHECKING:
    from pathlib import Path

TOKEN_FLOWS = [{"stages": ["m.login.registration_token", "m.login.dummy"]}]


async def test_registration_is_closed_unless_it_is_opened(server: AccountServer) -> None:
    answer = await server.call("POST", "/v3/register", {"username": "eve", "password": PASSWORD})
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert (await server.call("GET", "/v3/register/available?username=eve")).status == 403
    validity = "/v1/register/m.login.registration_token/validity?token=x"
    assert (await server.call("GET", validity)).status == 403
    guest = await server.call("POST", "/v3/register?kind=guest", {})
    assert (guest.status, guest.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def _is_open(start_server: StartServer) -> AccountServer:
    return await start_server(registration__enabled=True, registration__require_token=False)


async def _registers(server: AccountServer, **body: Any) -> Answer:
    asked = await server.call("POST", "/v3/register", body)
    if asked.status != 401:
        return asked
    auth = {"type": "m.login.dummy", "session": asked.json["session"]}
    return await server.call("POST", "/v3/register", {**body, "auth": auth})


async def test_an_empty_request_learns_the_flows(start_server: StartServer) -> None:
    server = await _is_open(start_server)
    answer = await server.call("POST", "/v3/register", {})
    assert answer.status == 401
    assert answer.json["flows"] == [{"stages": ["m.login.dummy"]}]
    # An errcode would mean that a stage had been tried and failed.
    assert "errcode" not in answer.json
    assert answer.json["session"]


async def test_with_open_registration_a_new_account_is_signed_in(
    start_server: StartServer,
) -> None:
    server = await _is_open(start_server)
    answer = await _registers(server, username="Alice", password=PASSWORD, device_id="PHONE")
    assert answer.json["user_id"] == "@alice:home.test"
    assert answer.json["device_id"] == "PHONE"
    assert await Person(server, answer.json).is_signed_in()
    assert (await server.sign_in("alice")).user_id == "@alice:home.test"

    nameless = await _registers(server, password=PASSWORD, inhibit_login=True)
    assert nameless.json["user_id"].endswith(":home.test")
    assert "access_token" not in nameless.json


async def test_a_name_or_password_that_cannot_be_is_refused_before_confirming(
    start_server: StartServer,
) -> None:
    server = await _is_open(start_server)
    await server.has("alice")
    for username, errcode in (
        ("alice", "M_USER_IN_USE"),
        ("ALICE", "M_USER_IN_USE"),
        ("a b", "M_INVALID_USERNAME"),
        ("李", "M_INVALID_USERNAME"),
        ("", "M_INVALID_USERNAME"),
        ("@bob:home.test", "M_INVALID_USERNAME"),
        ("x" * 250, "M_INVALID_USERNAME"),
    ):
        answer = await server.call(
            "POST", "/v3/register", {"username": username, "password": PASSWORD}
        )
        assert (answer.status, answer.errcode) == (400, errcode), username
    for body, errcode in (
        ({"username": "bob"}, "M_MISSING_PARAM"),
        ({"username": "bob", "password": "short"}, "M_WEAK_PASSWORD"),
        ({"username": "bob-bob-bob", "password": "bob-bob-bob"}, "M_WEAK_PASSWORD"),
        ({"username": "bob", "password": "x" * 2000}, "M_WEAK_PASSWORD"),
        ({"username": "bob", "password": PASSWORD, "device_id": "\x00"}, "M_BAD_JSON"),
    ):
        answer = await _registers(server, **body)
        assert (answer.status, answer.errcode) == (400, errcode), body
    available = await server.call("GET", "/v3/register/available?username=bob")
    assert available.json == {"available": True}
    taken = await server.call("GET", "/v3/register/available?username=alice")
    assert (taken.status, taken.errcode) == (400, "M_USER_IN_USE")


async def test_of_two_who_want_a_name_at_once_one_gets_it(start_server: StartServer) -> None:
    server = await _is_open(start_server)
    answers = await asyncio.gather(
        *(_registers(server, username="alice", password=PASSWORD) for _ in range(4))
    )
    assert sorted(answer.status for answer in answers) == [200, 400, 400, 400]


async def _with_tokens(start_server: StartServer) -> AccountServer:
    return await start_server(registration__enabled=True)


async def _makes_token(server: AccountServer, uses: int | None, days: int | None = None) -> str:
    made = await server.administration.make_token("test", uses=uses, days=days)
    token: str = made["token"]
    return token


async def _registers_with(server: AccountServer, token: str, username: str) -> Answer:
    body = {"username": username, "password": PASSWORD}
    asked = await server.call("POST", "/v3/register", body)
    assert asked.json["flows"] == TOKEN_FLOWS
    auth = {
        "type": "m.login.registration_token",
        "token": token,
        "session": asked.json["session"],
    }
    asked = await server.call("POST", "/v3/register", {**body, "auth": auth})
    if asked.json.get("completed") != ["m.login.registration_token"]:
        return asked
    auth = {"type": "m.login.dummy", "session": asked.json["session"]}
    return await server.call("POST", "/v3/register", {**body, "auth": auth})


async def test_a_registration_token_admits_as_many_as_it_says(start_server: StartServer) -> None:
    server = await _with_tokens(start_server)
    token = await _makes_token(server, uses=1)
    validity = f"/v1/register/m.login.registration_token/validity?token={token}"
    assert (await server.call("GET", validity)).json == {"valid": True}
    assert (await _registers_with(server, token, "alice")).status == 200

    assert (await server.call("GET", validity)).json == {"valid": False}
    refused = await _registers_with(server, token, "bob")
    assert (refused.status, refused.errcode) == (401, "M_FORBIDDEN")
    assert refused.json["flows"] == TOKEN_FLOWS


async def test_two_cannot_share_the_last_use_of_a_token(start_server: StartServer) -> None:
    server = await _with_tokens(start_server)
    token = await _makes_token(server, uses=1)
    answers = await asyncio.gather(
        *(_registers_with(server, token, name) for name in ("alice", "bob", "carol"))
    )
    assert sorted(answer.status for answer in answers) == [200, 403, 403]
    accounts = await server.administration.list_people()
    assert len(accounts) == 1


async def test_a_token_expires_and_a_wrong_one_admits_nobody(start_server: StartServer) -> None:
    server = await _with_tokens(start_server)
    token = await _makes_token(server, uses=None, days=1)
    for wrong in ("", "nonsense", "x" * 1000, "李"):
        assert (await _registers_with(server, wrong, "alice")).status == 401
    assert (await _registers_with(server, "\x00", "alice")).status == 400
    assert (await _registers_with(server, token, "alice")).status == 200
    server.clock.pass_seconds(86_401)
    assert (await _registers_with(server, token, "bob")).status == 401


async def test_the_stages_of_a_flow_are_completed_in_order_and_by_one_session(
    start_server: StartServer,
) -> None:
    server = await _with_tokens(start_server)
    token = await _makes_token(server, uses=None)
    body = {"username": "alice", "password": PASSWORD}

    async def attempt(**auth: object) -> Answer:
        return await server.call("POST", "/v3/register", {**body, "auth": auth})

    skipped = await attempt(type="m.login.dummy", session="made-up")
    assert (skipped.status, skipped.errcode) == (401, "M_FORBIDDEN")
    first = await attempt(type="m.login.registration_token", token=token)
    assert first.json["completed"] == ["m.login.registration_token"]
    session = first.json["session"]
    # Only the session, or a repeated stage: what is done stays done.
    for auth in ({"session": session}, {"type": "m.login.registration_token", "session": session}):
        again = await attempt(**auth)
        assert again.json["completed"] == ["m.login.registration_token"]
    other = await attempt(type="m.login.dummy", session=session + "x")
    assert (other.status, other.json["completed"]) == (401, [])
    assert (await attempt(type="m.login.dummy", session=session)).status == 200
    # It was used up.
    body["username"] = "bob"
    assert (await attempt(type="m.login.dummy", session=session)).status == 401


async def test_a_half_done_session_is_worth_nothing_elsewhere_or_later(
    start_server: StartServer,
) -> None:
    server = await _with_tokens(start_server)
    token = await _makes_token(server, uses=None)
    body = {"username": "alice", "password": PASSWORD}
    auth = {"type": "m.login.registration_token", "token": token}
    first = await server.call("POST", "/v3/register", {**body, "auth": auth})
    rest = {**body, "auth": {"type": "m.login.dummy", "session": first.json["session"]}}

    assert (await server.call("POST", "/r0/register", rest)).status == 401
    server.clock.pass_seconds(901)
    await server.services.sessions.tidy()
    assert (await server.call("POST", "/v3/register", rest)).status == 401
    assert await server.db.rows("SELECT session_id FROM confirmation") == []


async def test_asking_for_the_flows_writes_nothing(start_server: StartServer) -> None:
    server = await _with_tokens(start_server)
    await server.call("POST", "/v3/register", {})
    await server.call("POST", "/v3/register", {"auth": {"type": "m.login.dummy"}})
    assert await server.db.rows("SELECT session_id FROM confirmation") == []


async def _by_secret(
    server: AccountServer, secret: str, username: str, nonce: str | None = None, **more: Any
) -> Answer:
    if nonce is None:
        asked = await server.call("GET", "/v1/register", prefix="/_synapse/admin")
        nonce = str(asked.json["nonce"])
    admin = "admin" if more.get("admin") else "notadmin"
    text = f"{nonce}\0{username}\0{PASSWORD}\0{admin}"
    body = {
        "nonce": nonce,
        "username": username,
        "password": PASSWORD,
        "mac": hmac.new(secret.encode(), text.encode(), sha1).hexdigest(),
        **more,
    }
    return await server.call("POST", "/v1/register", body, prefix="/_synapse/admin")


async def _with_secret(start_server: StartServer, folder: Path) -> AccountServer:
    file = folder / "shared.secret"
    file.touch(mode=0o600)
    file.write_text("the secret\n")
    return await start_server(registration__shared_secret_file=str(file))


async def test_the_shared_secret_creates_accounts_while_registration_is_closed(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = await _with_secret(start_server, tmp_path)
    answer = await _by_secret(server, "the secret", "alice", admin=True, displayname="Alice")
    assert answer.status == 200, answer.json
    alice = Person(server, answer.json)
    assert await alice.is_signed_in()
    profile = await server.call("GET", f"/v3/profile/{alice.user_id}")
    assert profile.json == {"displayname": "Alice"}
    [person] = await server.administration.list_people()
    assert person["admin"] is True


async def test_a_wrong_mac_or_a_used_or_old_nonce_creates_nothing(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = await _with_secret(start_server, tmp_path)
    assert (await _by_secret(server, "another secret", "alice")).status == 403
    assert (await _by_secret(server, "the secret", "alice", nonce="0" * 64)).status == 400
    # Rights that the MAC does not cover are not given.
    asked = await server.call("GET", "/v1/register", prefix="/_synapse/admin")
    forged = hmac.new(
        b"the secret", f"{asked.json['nonce']}\0alice\0{PASSWORD}\0notadmin".encode(), sha1
    )
    body = {"nonce": asked.json["nonce"], "username": "alice", "password": PASSWORD}
    answer = await server.call(
        "POST",
        "/v1/register",
        {**body, "admin": True, "mac": forged.hexdigest()},
        prefix="/_synapse/admin",
    )
    assert answer.status == 403
    asked = await server.call("GET", "/v1/register", prefix="/_synapse/admin")
    nonce = str(asked.json["nonce"])
    server.clock.pass_seconds(61)
    assert (await _by_secret(server, "the secret", "alice", nonce=nonce)).status == 400
    assert await server.administration.list_people() == []


async def test_without_a_shared_secret_there_is_no_such_registration(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = await start_server(registration__shared_secret_file=str(tmp_path / "none"))
    answer = await server.call("GET", "/v1/register", prefix="/_synapse/admin")
    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")


async def test_later_requests_need_not_repeat_what_the_first_one_said(
    start_server: StartServer,
) -> None:
    server = await _is_open(start_server)
    said = {"username": "alice", "password": PASSWORD, "device_id": "PHONE", "inhibit_login": False}
    asked = await server.call("POST", "/v3/register", said)
    auth = {"type": "m.login.dummy", "session": asked.json["session"]}
    answer = await server.call("POST", "/v3/register", {"auth": auth})
    assert (answer.json["user_id"], answer.json["device_id"]) == ("@alice:home.test", "PHONE")
    assert (await server.sign_in("alice")).user_id == "@alice:home.test"
    assert PASSWORD not in asked.json["session"]

    for session in ("", "x", asked.json["session"][:-2], "ä" * 9, "A" * 4000):
        auth = {"type": "m.login.dummy", "session": session}
        assert (await server.call("POST", "/v3/register", {"auth": auth})).status == 400


async def test_a_registration_whose_answer_was_lost_may_be_repeated(
    start_server: StartServer,
) -> None:
    server = await _is_open(start_server)
    for wish in ({"username": "alice"}, {}):
        body = {**wish, "password": PASSWORD}
        asked = await server.call("POST", "/v3/register", body)
        auth = {"type": "m.login.dummy", "session": asked.json["session"]}
        first = await server.call("POST", "/v3/register", {**body, "auth": auth})
        again = await server.call("POST", "/v3/register", {**body, "auth": auth})
        assert first.json["user_id"] == again.json["user_id"]
        assert await Person(server, again.json).is_signed_in()

    # Whoever else began to register the name has not that password.
    taken = await server.call("POST", "/v3/register", {"username": "bob", "password": PASSWORD})
    auth = {"type": "m.login.dummy", "session": taken.json["session"]}
    await _registers(server, username="bob", password=PASSWORD + "!")
    answer = await server.call("POST", "/v3/register", {"auth": auth})
    assert (answer.status, answer.errcode) == (400, "M_USER_IN_USE")
