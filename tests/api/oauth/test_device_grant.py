"""The device grant: polling, approving by a code, and guessing codes."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode, urlsplit

from yizhan_testing.account_server import PASSWORD, AccountServer
from yizhan_testing.browser import Browser, Page
from yizhan_testing.oauth_client import OAuthClient, scope_for, whoami

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


async def begins(client: OAuthClient, device_id: str = "TV") -> dict[str, Any]:
    form = {"client_id": client.client_id, "scope": scope_for(device_id)}
    answer = await client.post("/device", urlencode(form).encode())
    assert answer.status == 200, answer.json
    result: dict[str, Any] = answer.json
    return result


async def polls(client: OAuthClient, started: dict[str, Any]) -> Any:
    return await client.token(grant_type=DEVICE_CODE, device_code=started["device_code"])


async def signs_in_and_types(browser: Browser, code: str, name: str = "alice") -> Page:
    page = await browser.opens("/_yizhan/account/link")
    if page.url.path.endswith("/login"):
        page = await browser.signs_in(page, name, PASSWORD)
    return await browser.sends(page.form("/link"), user_code=code)


async def test_a_device_is_approved_in_a_browser(server: AccountServer, browser: Browser) -> None:
    alice = await server.has("alice")
    client = await OAuthClient.register(server)
    started = await begins(client)
    assert (started["interval"], started["expires_in"]) == (5, 900)
    assert (await polls(client, started)).json["error"] == "authorization_pending"

    page = await browser.opens(started["verification_uri_complete"])
    page = await browser.signs_in(page, "alice", PASSWORD)
    assert page.form("/link").fields["user_code"] == started["user_code"]
    page = await browser.sends(page.form("/link"))
    assert started["user_code"] in page.text
    assert "Postbox" in page.text
    page = await browser.sends(page.form("/link"), press="allow")
    assert "Allowed" in page.text

    answer = await polls(client, started)
    assert answer.json["scope"] == scope_for("TV")
    who = await whoami(server, answer.json["access_token"])
    assert (who.json["user_id"], who.json["device_id"]) == (alice.user_id, "TV")
    assert (await client.refreshes(answer.json["refresh_token"])).status == 200
    assert (await polls(client, started)).json["error"] == "invalid_grant"


async def test_the_code_may_be_typed_in_any_way(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    started = await begins(client)
    typed = " " + started["user_code"].lower().replace("-", " ") + " "

    page = await signs_in_and_types(browser, typed)

    assert started["user_code"] in page.text


async def test_a_refused_device_is_told(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    started = await begins(client)
    page = await signs_in_and_types(browser, started["user_code"])

    await browser.sends(page.form("/link"), press="deny")

    assert (await polls(client, started)).json["error"] == "access_denied"
    page = await signs_in_and_types(browser, started["user_code"])
    assert "wrong or has expired" in page.text


async def test_who_polls_too_fast_is_slowed_down(server: AccountServer) -> None:
    client = await OAuthClient.register(server)
    started = await begins(client)

    assert (await polls(client, started)).json["error"] == "authorization_pending"
    server.clock.pass_seconds(1)
    assert (await polls(client, started)).json["error"] == "slow_down"
    server.clock.pass_seconds(5)
    assert (await polls(client, started)).json["error"] == "slow_down"
    server.clock.pass_seconds(15)
    assert (await polls(client, started)).json["error"] == "authorization_pending"


async def test_a_device_code_expires_and_belongs_to_its_client(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    client = await OAuthClient.register(server)
    other = await OAuthClient.register(server, client_name="Other")
    started = await begins(client)
    assert (await polls(other, started)).json["error"] == "invalid_grant"
    server.clock.pass_seconds(901)

    assert (await polls(client, started)).json["error"] == "expired_token"
    page = await signs_in_and_types(browser, started["user_code"])
    assert "wrong or has expired" in page.text


async def test_codes_cannot_be_guessed(server: AccountServer, browser: Browser) -> None:
    await server.has("mallory")
    client = await OAuthClient.register(server)
    started = await begins(client)
    page = await signs_in_and_types(browser, "BBBB-BBBB", "mallory")

    statuses = []
    for _ in range(25):
        if page.status == 429:
            break
        page = await browser.sends(page.form("/link"), user_code="BBBB-CCCC")
        statuses.append(page.status)

    assert statuses.count(400) <= 20
    assert statuses[-1] == 429
    page = await browser.posts(
        "/_yizhan/account/link", {"csrf": "", "user_code": started["user_code"]}
    )
    assert page.status == 403
    server.clock.pass_seconds(61)
    page = await signs_in_and_types(browser, started["user_code"])
    assert started["user_code"] in page.text


async def test_a_client_must_have_registered_for_the_grant(server: AccountServer) -> None:
    client = await OAuthClient.register(server, grant_types=["authorization_code"])
    form = {"client_id": client.client_id, "scope": scope_for("TV")}

    answer = await client.post("/device", urlencode(form).encode())

    assert answer.json["error"] == "unauthorized_client"
    answer = await client.post("/device", b"client_id=nobody&scope=x")
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")


async def test_the_page_that_is_named_is_ours(server: AccountServer) -> None:
    client = await OAuthClient.register(server)

    started = await begins(client)

    metadata = (await server.call("GET", "/v1/auth_metadata")).json
    issuer = urlsplit(metadata["issuer"])
    assert urlsplit(started["verification_uri"])[:2] == issuer[:2]
