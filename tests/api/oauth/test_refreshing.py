"""Refreshing, stolen refresh tokens, and giving everything back."""

from __future__ import annotations

from urllib.parse import urlencode

from yizhan_testing.account_server import AccountServer
from yizhan_testing.browser import Browser
from yizhan_testing.oauth_client import OAuthClient, whoami


async def test_a_refresh_gives_new_tokens_and_ends_the_old(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    first = (await client.signs_in(browser, "alice")).json

    second = (await client.refreshes(first["refresh_token"])).json

    assert second["scope"] == first["scope"]
    assert second["refresh_token"] != first["refresh_token"]
    assert (await whoami(server, second["access_token"])).status == 200
    assert (await whoami(server, first["access_token"])).status == 401


async def test_an_access_token_is_short_lived(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    tokens = (await client.signs_in(browser, "alice")).json
    server.clock.pass_seconds(tokens["expires_in"] + 1)

    answer = await whoami(server, tokens["access_token"])

    assert (answer.errcode, answer.json["soft_logout"]) == ("M_UNKNOWN_TOKEN", True)
    assert (await client.refreshes(tokens["refresh_token"])).status == 200


async def test_a_lost_answer_can_be_asked_for_again(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    tokens = (await client.signs_in(browser, "alice")).json

    await client.refreshes(tokens["refresh_token"])
    again = await client.refreshes(tokens["refresh_token"])

    assert again.status == 200
    assert (await whoami(server, again.json["access_token"])).status == 200


async def test_a_refresh_token_that_was_replaced_ends_the_session(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    first = (await client.signs_in(browser, "alice")).json
    second = (await client.refreshes(first["refresh_token"])).json
    await whoami(server, second["access_token"])  # the client has them: now the old are spent

    stolen = await client.refreshes(first["refresh_token"])

    assert (stolen.status, stolen.json["error"]) == (400, "invalid_grant")
    assert (await whoami(server, second["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await client.refreshes(second["refresh_token"])).json["error"] == "invalid_grant"


async def test_reuse_is_noticed_also_when_only_refresh_tokens_were_used(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    first = (await client.signs_in(browser, "alice")).json
    second = (await client.refreshes(first["refresh_token"])).json
    third = (await client.refreshes(second["refresh_token"])).json

    assert (await client.refreshes(first["refresh_token"])).json["error"] == "invalid_grant"

    assert (await client.refreshes(third["refresh_token"])).json["error"] == "invalid_grant"


async def test_a_refresh_token_belongs_to_its_client(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    other = await OAuthClient.register(server, client_name="Other")
    tokens = (await client.signs_in(browser, "alice")).json

    refused = await other.refreshes(tokens["refresh_token"])
    assert refused.json["error"] == "invalid_grant"
    legacy = await server.call("POST", "/v3/refresh", {"refresh_token": tokens["refresh_token"]})
    assert legacy.errcode == "M_UNKNOWN_TOKEN"

    assert (await client.refreshes(tokens["refresh_token"])).status == 200


async def test_a_refresh_token_of_login_is_none_of_oauth(server: AccountServer) -> None:
    alice = await server.has("alice")
    client = await OAuthClient.register(server)
    session = (await server.sign_in("alice", refresh_token=True)).session

    refused = await client.refreshes(session["refresh_token"])

    assert refused.json["error"] == "invalid_grant"
    assert await alice.is_signed_in()


async def test_a_locked_account_keeps_its_sessions(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    tokens = (await client.signs_in(browser, "alice")).json
    await server.administration.set_locked("test", "alice", is_locked=True)

    assert (await client.refreshes(tokens["refresh_token"])).status == 503
    page = await browser.opens(client.authorize_path())
    assert page.url.path.endswith("/login")

    await server.administration.set_locked("test", "alice", is_locked=False)
    assert (await client.refreshes(tokens["refresh_token"])).status == 200


async def test_revoking_either_token_ends_the_device(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    client = await OAuthClient.register(server)
    for kind in ("access_token", "refresh_token"):
        tokens = (await client.signs_in(browser, "alice")).json
        assert "PHONE" in await alice.device_ids()

        for _ in range(2):
            form = {"token": tokens[kind], "token_type_hint": kind}
            answer = await client.post("/revoke", urlencode(form).encode())
            assert (answer.status, answer.json) == (200, {})

        assert "PHONE" not in await alice.device_ids()
        assert (await whoami(server, tokens["access_token"])).errcode == "M_UNKNOWN_TOKEN"
        assert (await client.refreshes(tokens["refresh_token"])).status == 400
    assert (await client.post("/revoke", b"token=nonsense")).status == 200
    assert (await client.post("/revoke", b"")).json["error"] == "invalid_request"
    assert await alice.is_signed_in()


async def test_the_token_endpoint_says_what_is_wrong(server: AccountServer) -> None:
    client = await OAuthClient.register(server)

    for form, error in (
        ({}, "invalid_request"),
        ({"grant_type": "password", "username": "alice"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "code": "x"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, "invalid_grant"),
    ):
        answer = await client.token(**form)
        assert (answer.status, answer.json["error"]) == (400, error)
    answer = await server.call("POST", "/token", {"grant_type": "x"}, prefix="/_yizhan/oauth2")
    assert answer.json["error"] == "invalid_request"


async def test_signing_in_by_password_on_the_device_ends_the_client_s_session(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    tokens = (await client.signs_in(browser, "alice")).json

    phone = await server.sign_in("alice", device_id="PHONE")

    assert (await client.refreshes(tokens["refresh_token"])).json["error"] == "invalid_grant"
    assert await phone.is_signed_in()
