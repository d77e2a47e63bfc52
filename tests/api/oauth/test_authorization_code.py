"""The authorization code grant: what clients get, and what nobody gets."""

from __future__ import annotations

import re

import pytest

from yizhan_testing.account_server import PASSWORD, AccountServer, StartServer
from yizhan_testing.browser import Browser
from yizhan_testing.oauth_client import (
    METADATA,
    OAUTH,
    OAuthClient,
    answer_in,
    challenge_of,
    scope_for,
    whoami,
)


async def test_the_server_describes_itself(server: AccountServer) -> None:
    answer = await server.call("GET", "/v1/auth_metadata")

    assert answer.json["issuer"] == "http://127.0.0.1/"
    assert answer.json["code_challenge_methods_supported"] == ["S256"]
    assert set(answer.json["response_modes_supported"]) == {"query", "fragment"}
    assert "prompt_values_supported" not in answer.json
    older = await server.call("GET", "/unstable/org.matrix.msc2965/auth_metadata")
    assert older.json == answer.json


@pytest.mark.parametrize("mode", ["query", "fragment"])
async def test_somebody_signs_in_to_a_client(
    server: AccountServer, browser: Browser, mode: str
) -> None:
    alice = await server.has("alice")
    client = await OAuthClient.register(server)

    page = await client.consented(browser, "alice", response_mode=mode)
    separator = {"query": "?", "fragment": "#"}[mode]
    assert page.location is not None
    assert page.location.startswith(client.redirect_uri + separator)
    assert answer_in(page)["state"] == "some state"
    answer = await client.redeems(answer_in(page)["code"])

    assert answer.json["token_type"] == "Bearer"
    assert answer.json["expires_in"] == 3600
    assert answer.json["scope"] == scope_for("PHONE")
    who = await whoami(server, answer.json["access_token"])
    assert who.json["user_id"] == alice.user_id
    assert who.json["device_id"] == "PHONE"
    [phone] = [
        device
        for device in (await alice.calls("GET", "/v3/devices")).json["devices"]
        if device["device_id"] == "PHONE"
    ]
    assert phone["display_name"] == "Postbox"


async def test_unstable_scopes_and_unknown_ones(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    old = "urn:matrix:org.matrix.msc2967.client:"

    page = await client.consented(
        browser, "alice", scope=f"openid {old}api:* {old}device:a+b/c some:other"
    )
    answer = await client.redeems(answer_in(page)["code"])

    assert answer.json["scope"] == f"{old}api:* {old}device:a+b/c"
    assert (await whoami(server, answer.json["access_token"])).json["device_id"] == "a+b/c"


async def test_who_refuses_sends_the_client_a_refusal(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    page = await browser.signs_in(await browser.opens(client.authorize_path()), "alice", PASSWORD)
    assert "Postbox" in page.text
    assert "app.postbox.example" in page.text

    page = await browser.sends(page.form("/authorize"), press="deny")

    assert answer_in(page)["error"] == "access_denied"
    assert answer_in(page)["state"] == "some state"


async def test_a_code_is_worth_nothing_without_its_verifier(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    code = await client.gets_code(browser, "alice")

    for wrong in ("A" * 43, client.verifier + "x", challenge_of(client.verifier), "short"):
        refused = await client.redeems(code, code_verifier=wrong)
        assert (refused.status, refused.json["error"]) == (400, "invalid_grant")
    assert (await client.redeems(code, code_verifier="")).json["error"] == "invalid_request"

    assert (await client.redeems(code)).status == 200


async def test_a_code_belongs_to_its_client_and_redirect_uri(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    other = await OAuthClient.register(server, client_name="Thief")
    code = await client.gets_code(browser, "alice")

    refused = await client.redeems(code, client_id=other.client_id)
    assert refused.json["error"] == "invalid_grant"
    refused = await client.redeems(code, redirect_uri="https://app.postbox.example/back?x=1")
    assert refused.json["error"] == "invalid_grant"
    refused = await client.redeems(code, client_id="nobody")
    assert (refused.status, refused.json["error"]) == (401, "invalid_client")


async def test_a_code_that_comes_twice_ends_the_session(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    code = await client.gets_code(browser, "alice")
    bought = (await client.redeems(code)).json
    assert (await whoami(server, bought["access_token"])).status == 200

    again = await client.redeems(code)

    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    assert (await whoami(server, bought["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await client.refreshes(bought["refresh_token"])).json["error"] == "invalid_grant"


async def test_an_old_code_does_not_end_what_a_new_one_bought(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    first = await client.gets_code(browser, "alice")
    await client.redeems(first)
    bought = await client.signs_in(browser, "alice")

    assert (await client.redeems(first)).json["error"] == "invalid_grant"

    assert (await whoami(server, bought.json["access_token"])).status == 200


async def test_a_code_expires(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    code = await client.gets_code(browser, "alice")
    server.clock.pass_seconds(61)

    assert (await client.redeems(code)).json["error"] == "invalid_grant"


async def test_a_code_ends_with_the_password_under_which_it_was_given(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    code = await client.gets_code(browser, "alice")
    await server.administration.set_password(
        "test", "alice", password="another password", keep_devices=True
    )

    assert (await client.redeems(code)).json["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"response_mode": "form_post"}, "invalid_request"),
        ({"scope": "urn:matrix:client:api:*"}, "invalid_scope"),
        ({"scope": "urn:matrix:client:device:A"}, "invalid_scope"),
        ({"scope": scope_for("A") + " urn:matrix:client:device:B"}, "invalid_scope"),
        ({"scope": scope_for("")}, "invalid_scope"),
        ({"prompt": "none"}, "interaction_required"),
        ({"request_uri": "https://postbox.example/r"}, "request_not_supported"),
    ],
)
async def test_a_bad_request_goes_back_only_by_a_press_of_the_button(
    server: AccountServer, browser: Browser, changes: dict[str, str | None], error: str
) -> None:
    client = await OAuthClient.register(server)

    page = await browser.opens(client.authorize_path(**changes))

    assert (page.status, page.location) == (400, None)
    [back] = [link for link in page.links if link.startswith("https:")]
    assert back.startswith(f"{client.redirect_uri}?error={error}&")
    assert back.endswith("&state=some%20state")


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "https://evil.example/back",
        "https://app.postbox.example/back/",
        "https://app.postbox.example/back?x=1",
        "https://app.postbox.example/back#",
        "https://APP.postbox.example/back",
        "https://app.postbox.example:443/back",
        "https://app.postbox.example@evil.example/back",
        "https://app.postbox.example\\@evil.example/back",
        "//app.postbox.example/back",
        "javascript:alert(1)",
        "",
        None,
    ],
)
async def test_nobody_is_sent_to_what_was_not_registered(
    server: AccountServer, browser: Browser, redirect_uri: str | None
) -> None:
    client = await OAuthClient.register(server)

    page = await browser.opens(client.authorize_path(redirect_uri=redirect_uri))

    assert (page.status, page.location) == (400, None)
    assert not [link for link in page.links if not link.startswith("/_yizhan/account/")]


async def test_a_parameter_that_is_given_twice_is_refused(
    server: AccountServer, browser: Browser
) -> None:
    client = await OAuthClient.register(server)
    page = await browser.opens(client.authorize_path() + "&redirect_uri=https://evil.example/back")
    assert (page.status, page.location) == (400, None)

    answer = await client.post("/token", b"grant_type=refresh_token&grant_type=x&client_id=y")
    assert answer.json["error"] == "invalid_request"


async def test_a_native_client_gets_any_port_of_the_loopback_interface(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(
        server,
        application_type="native",
        redirect_uris=["http://127.0.0.1/back", "example.postbox.app:/back"],
    )
    for uri in ("http://127.0.0.1:49152/back", "example.postbox.app:/back"):
        client.redirect_uri = uri
        page = await client.consented(browser, "alice")
        assert page.location is not None
        assert page.location.startswith(uri + "?code=")
        assert (await client.redeems(answer_in(page)["code"])).status == 200
    for uri in (
        "http://localhost:49152/back",
        "http://127.0.0.1:49152/other",
        "http://x@127.0.0.1:49152/back",
        "http://127.0.0.1.evil.example:1/back",
        "https://127.0.0.1:49152/back",
    ):
        page = await browser.opens(client.authorize_path(redirect_uri=uri))
        assert (page.status, page.location) == (400, None)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_uri": None}, "invalid_client_metadata"),
        ({"client_uri": "http://postbox.example/"}, "invalid_client_metadata"),
        ({"client_uri": "https://me:pw@postbox.example/"}, "invalid_client_metadata"),
        ({"application_type": "tv"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "invalid_client_metadata"),
        ({"redirect_uris": []}, "invalid_client_metadata"),
        ({"redirect_uris": "https://postbox.example/"}, "invalid_client_metadata"),
        ({"logo_uri": "https://evil.example/logo"}, "invalid_client_metadata"),
        ({"tos_uri": "javascript:alert(1)"}, "invalid_client_metadata"),
        ({"client_name": "x" * 101}, "invalid_client_metadata"),
        *(
            ({"redirect_uris": [uri]}, "invalid_redirect_uri")
            for uri in (
                "https://postbox.example/back#fragment",
                "http://postbox.example/back",
                "http://localhost/",
                "https://postbox.example.evil.example/",
                "https://notpostbox.example/",
                "https://me@postbox.example/",
                "https://postbox.example\\.evil.example/",
                "https://postbox.example /",
                "HTTPS://postbox.example/",
                "javascript:alert(1)",
                "example.postbox:/back",
            )
        ),
        *(
            ({"redirect_uris": [uri], "application_type": "native"}, "invalid_redirect_uri")
            for uri in (
                "postbox:/back",
                "example.postbox.app://back",
                "example.postboxer:/back",
                "https://localhost/back",
                "http://localhost:1234/back",
                "http://127.0.0.2/back",
            )
        ),
    ],
)
async def test_what_cannot_be_registered(
    server: AccountServer, changes: dict[str, object], error: str
) -> None:
    metadata = {k: v for k, v in (METADATA | changes).items() if v is not None}

    answer = await server.call("POST", "/register", metadata, prefix=OAUTH)

    assert (answer.status, answer.json["error"]) == (400, error)


async def test_equal_clients_are_one_and_unknown_values_are_left_out(
    server: AccountServer,
) -> None:
    grants = [*METADATA["grant_types"], "urn:ietf:params:oauth:grant-type:token-exchange"]
    wish = METADATA | {"client_name#fr": "Boîte", "grant_types": grants}

    first = await server.call("POST", "/register", wish, prefix=OAUTH)
    second = await server.call("POST", "/register", METADATA, prefix=OAUTH)

    assert first.json["client_id"] == second.json["client_id"]
    assert first.json["grant_types"] == METADATA["grant_types"]
    assert "client_name#fr" not in first.json
    other = await OAuthClient.register(server, client_name="Other")
    assert other.client_id != first.json["client_id"]


async def test_unused_clients_are_forgotten_and_used_ones_are_not(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    used = await OAuthClient.register(server)
    unused = await OAuthClient.register(server, client_name="Nobody's")
    bought = await used.signs_in(browser, "alice")
    server.clock.pass_seconds(8 * 86_400)
    await server.services.oauth_grants.tidy()

    assert await server.services.oauth_clients.find(unused.client_id) is None
    assert await server.services.oauth_clients.find(used.client_id) is not None
    assert (await used.refreshes(bought.json["refresh_token"])).status == 200


async def test_prompt_create_leads_to_registration_where_it_is_open(
    start_server: StartServer,
) -> None:
    server = await start_server(registration__enabled=True, registration__require_token=False)
    metadata = (await server.call("GET", "/v1/auth_metadata")).json
    assert metadata["prompt_values_supported"] == ["create"]
    client = await OAuthClient.register(server)
    async with Browser(server.url) as browser:
        page = await browser.opens(client.authorize_path(prompt="create"))
        assert page.url.path.endswith("/register")
        fields = {"name": "dora", "password": PASSWORD, "password2": PASSWORD + "x"}
        page = await browser.sends(page.form("/register"), **fields)
        assert "differ" in page.text
        page = await browser.sends(page.form("/register"), **fields | {"password2": PASSWORD})
        assert "Postbox" in page.text
        page = await browser.sends(page.form("/authorize"), press="allow")
        answer = await client.redeems(answer_in(page)["code"])

    who = await whoami(server, answer.json["access_token"])
    assert re.fullmatch("@dora:.*", who.json["user_id"])
