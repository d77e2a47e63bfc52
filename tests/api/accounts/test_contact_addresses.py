"""E-mail addresses and telephone numbers: there are none, and every endpoint says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer

SECRET = {"client_secret": "s3cret"}
WANTED = {
    "email": {**SECRET, "email": "li@home.test", "send_attempt": 1},
    "msisdn": {**SECRET, "country": "CN", "phone_number": "13800000000", "send_attempt": 1},
}
VERIFIED = {**SECRET, "sid": "1"}
AT_IDENTITY_SERVER = {**VERIFIED, "id_server": "id.home.test", "id_access_token": "token"}
ADDRESS = {"medium": "email", "address": "li@home.test"}


async def test_an_account_has_no_addresses(server: AccountServer) -> None:
    alice = await server.has("alice")
    assert (await alice.calls("GET", "/v3/account/3pid")).json == {"threepids": []}
    capabilities = (await alice.calls("GET", "/v3/capabilities")).json["capabilities"]
    assert capabilities["m.3pid_changes"] == {"enabled": False}


async def test_no_message_is_sent_to_verify_an_address(server: AccountServer) -> None:
    for medium, body in WANTED.items():
        for purpose in ("register", "account/3pid"):
            answer = await server.call("POST", f"/v3/{purpose}/{medium}/requestToken", body)
            assert (answer.status, answer.errcode) == (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")


async def test_no_password_is_reset_by_an_address(server: AccountServer) -> None:
    for medium, body in WANTED.items():
        answer = await server.call("POST", f"/v3/account/password/{medium}/requestToken", body)
        assert (answer.status, answer.errcode) == (400, "M_THREEPID_NOT_FOUND")


async def test_an_address_that_nobody_verified_is_not_added(server: AccountServer) -> None:
    alice = await server.has("alice")
    for path, body in (("/add", VERIFIED), ("", {"three_pid_creds": AT_IDENTITY_SERVER})):
        answer = await alice.calls("POST", f"/v3/account/3pid{path}", body)
        assert (answer.status, answer.errcode) == (403, "M_THREEPID_AUTH_FAILED")
        assert (await server.call("POST", f"/v3/account/3pid{path}", body)).status == 401
    assert (await alice.calls("GET", "/v3/account/3pid")).json == {"threepids": []}


async def test_no_identity_server_is_asked(server: AccountServer) -> None:
    alice = await server.has("alice")
    bound = await alice.calls("POST", "/v3/account/3pid/bind", AT_IDENTITY_SERVER)
    assert (bound.status, bound.errcode) == (400, "M_SERVER_NOT_TRUSTED")

    room = (await alice.calls("POST", "/v3/createRoom", {})).json["room_id"]
    invitation = {**ADDRESS, "id_server": "id.home.test", "id_access_token": "token"}
    invited = await alice.calls("POST", f"/v3/rooms/{room}/invite", invitation)
    assert (invited.status, invited.errcode) == (400, "M_SERVER_NOT_TRUSTED")
    # Whoever may not invite at all learns no more than that.
    bob = await server.has("bob")
    refused = await bob.calls("POST", f"/v3/rooms/{room}/invite", invitation)
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


async def test_taking_away_an_address_that_is_not_there_succeeds(server: AccountServer) -> None:
    alice = await server.has("alice")
    for act in ("delete", "unbind"):
        path = f"/v3/account/3pid/{act}"
        answer = await alice.calls("POST", path, ADDRESS)
        assert answer.json == {"id_server_unbind_result": "no-support"}
        malformed = await alice.calls("POST", path, {**ADDRESS, "medium": "pigeon"})
        assert (malformed.status, malformed.errcode) == (400, "M_BAD_JSON")
