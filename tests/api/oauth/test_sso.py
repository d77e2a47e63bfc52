"""Signing in through an OpenID Connect provider: a real one, made of another package."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from yizhan_testing.account_server import PASSWORD, AccountServer, StartServer
from yizhan_testing.browser import Browser, Page
from yizhan_testing.oauth_client import OAuthClient, answer_in, whoami
from yizhan_testing.oidc_provider import CLIENT_ID, CLIENT_SECRET, RunningProvider, oidc_provider

REDIRECT = "/_matrix/client/v3/login/sso/redirect/oidc?redirectUrl=https://app.example/"
LI = {"sub": "17", "preferred_username": "li", "name": "李明"}

StartBoth = Callable[..., Awaitable[AccountServer]]


@pytest.fixture
async def start_both(start_server: StartServer, tmp_path: Path) -> AsyncIterator[StartBoth]:
    """Start a provider that knows some people, and a server that trusts it."""
    async with AsyncExitStack() as stack:

        async def start(people: dict[str, Any], **settings: object) -> AccountServer:
            provider: RunningProvider = await stack.enter_async_context(oidc_provider(people))
            secret = tmp_path / "client.secret"
            secret.touch(mode=0o600)
            secret.write_text(CLIENT_SECRET)
            server = await start_server(
                **{
                    "sso.oidc.issuer": provider.issuer,
                    "sso.oidc.client_id": CLIENT_ID,
                    "sso.oidc.client_secret_file": secret,
                    "outbound.allow": (urlsplit(provider.issuer).netloc,),
                    **settings,
                }
            )
            # The provider lives by the real time.
            import time  # noqa: PLC0415

            server.clock.ms = int(time.time() * 1000)
            return server

        yield start


async def at_provider(location: str, name: str) -> str:
    """Sign in at the provider; returns where it sends the browser back to."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(location, data={"name": name}, allow_redirects=False) as response,
    ):
        assert response.status == 302, await response.text()
        return str(response.headers["Location"])


async def signs_in(browser: Browser, name: str, start: str = REDIRECT) -> Page:
    page = await browser.opens(start)
    assert page.location is not None, page.text
    return await browser.opens(await at_provider(page.location, name))


async def login_token(browser: Browser, page: Page) -> str:
    page = await browser.sends(page.form("/client"), press="allow")
    return answer_in(page)["loginToken"]


async def logs_in(server: AccountServer, token: str) -> dict[str, Any]:
    answer = await server.call("POST", "/v3/login", {"type": "m.login.token", "token": token})
    assert answer.status == 200, answer.json
    result: dict[str, Any] = answer.json
    return result


async def test_somebody_new_gets_an_account_and_keeps_it(start_both: StartBoth) -> None:
    server = await start_both({"li": LI, "renamed": LI | {"preferred_username": "wang"}})
    flows = (await server.call("GET", "/v3/login")).json["flows"]
    [sso] = [flow for flow in flows if flow["type"] == "m.login.sso"]
    assert sso["identity_providers"] == [{"id": "oidc", "name": "统一身份认证"}]

    async with Browser(server.url) as browser:
        session = await logs_in(server, await login_token(browser, await signs_in(browser, "li")))
    assert session["user_id"] == "@li:home.test"
    profile = await server.call("GET", f"/v3/profile/{session['user_id']}")
    assert profile.json["displayname"] == "李明"
    # The provider's name for a person may change; who it is does not.
    async with Browser(server.url) as browser:
        page = await signs_in(browser, "renamed")
        again = await logs_in(server, await login_token(browser, page))
    assert again["user_id"] == "@li:home.test"


async def test_an_oauth_client_signs_in_through_the_provider(start_both: StartBoth) -> None:
    server = await start_both({"li": LI})
    client = await OAuthClient.register(server)
    async with Browser(server.url) as browser:
        page = await browser.opens(client.authorize_path())
        [button] = [link for link in page.links if "/sso?" in link]
        page = await signs_in(browser, "li", button)
        assert "Postbox" in page.text
        page = await browser.sends(page.form("/authorize"), press="allow")
        answer = await client.redeems(answer_in(page)["code"])

    who = await whoami(server, answer.json["access_token"])
    assert who.json["user_id"] == "@li:home.test"


async def test_an_account_of_that_name_is_not_handed_over(start_both: StartBoth) -> None:
    server = await start_both({"li": LI})
    await server.services.accounts.create("li", PASSWORD)
    async with Browser(server.url) as browser:
        page = await signs_in(browser, "li")
        assert page.status == 403
        assert "does not own" in page.text
        assert (await browser.opens("/_yizhan/account/devices")).url.path.endswith("/login")


async def test_existing_accounts_are_linked_where_that_is_configured(
    start_both: StartBoth,
) -> None:
    people = {"li": LI, "mail": LI | {"sub": "18", "preferred_username": "li@elsewhere"}}
    server = await start_both(people, **{"sso.oidc.link_existing_accounts": True})
    await server.services.accounts.create("li", PASSWORD)
    async with Browser(server.url) as browser:
        session = await logs_in(server, await login_token(browser, await signs_in(browser, "li")))
        assert session["user_id"] == "@li:home.test"
    async with Browser(server.url) as browser:
        assert (await signs_in(browser, "mail")).status == 403


async def test_nobody_new_comes_in_where_that_is_configured(start_both: StartBoth) -> None:
    server = await start_both({"li": LI}, **{"sso.oidc.create_accounts": False})
    async with Browser(server.url) as browser:
        page = await signs_in(browser, "li")
    assert (page.status, "You have no account here" in page.text) == (403, True)


async def test_names_become_user_names(start_both: StartBoth) -> None:
    names = {"a": "Li.Ming", "b": "李", "c": "\u212a", "d": "li@corp.example"}
    people = {k: {"sub": k, "preferred_username": name} for k, name in names.items()}
    server = await start_both(people)
    got = {}
    for key in people:
        async with Browser(server.url) as browser:
            page = await signs_in(browser, key)
            got[key] = (await logs_in(server, await login_token(browser, page)))["user_id"]
    assert got == {
        "a": "@li.ming:home.test",
        "b": "@=e6=9d=8e:home.test",
        "c": "@=e2=84=aa:home.test",
        "d": "@li:home.test",
    }


async def test_a_claim_may_come_from_userinfo(start_both: StartBoth) -> None:
    right = {"sub": "1", "_userinfo": {"sub": "1", "preferred_username": "right"}}
    wrong = {"sub": "2", "_userinfo": {"sub": "1", "preferred_username": "wrong"}}
    server = await start_both({"right": right, "wrong": wrong})
    async with Browser(server.url) as browser:
        page = await signs_in(browser, "right")
        session = await logs_in(server, await login_token(browser, page))
        assert session["user_id"] == "@right:home.test"
    async with Browser(server.url) as browser:
        assert (await signs_in(browser, "wrong")).status == 403


@pytest.mark.parametrize(
    "lie",
    [
        {"nonce": "another"},
        {"aud": "another"},
        {"aud": [CLIENT_ID, "another"]},
        {"azp": "another"},
        {"iss": "http://127.0.0.1:1"},
        {"exp": 1_000_000_000},
        {"sub": ""},
        {"_alg": "none"},
        {"_alg": "HS256"},
        {"_key": "another"},
    ],
    ids=str,
)
async def test_an_id_token_that_is_not_for_us_now_is_refused(
    start_both: StartBoth, lie: dict[str, Any]
) -> None:
    server = await start_both({"li": LI | lie, "honest": LI | {"sub": "18"}})
    async with Browser(server.url) as browser:
        page = await signs_in(browser, "li")
        assert (page.status, page.location) == (403, None)
        assert (await browser.opens("/_yizhan/account/devices")).url.path.endswith("/login")
        # It was the lie: the same person is let in without it.
        assert (await signs_in(browser, "honest")).status == 200


async def test_a_sign_in_ends_in_the_browser_in_which_it_began(start_both: StartBoth) -> None:
    server = await start_both({"li": LI})
    async with Browser(server.url) as mallory, Browser(server.url) as alice:
        page = await mallory.opens(REDIRECT)
        assert page.location is not None
        back = await at_provider(page.location, "li")
        page = await alice.opens(back)
        assert page.status == 403
        assert (await alice.opens("/_yizhan/account/devices")).url.path.endswith("/login")
        assert (await mallory.opens(back)).status == 200
        assert (await mallory.opens(back)).status == 403  # once


async def test_a_refusal_and_a_stale_sign_in_are_told(start_both: StartBoth) -> None:
    server = await start_both({"li": LI})
    async with Browser(server.url) as browser:
        page = await browser.opens(REDIRECT)
        assert page.location is not None
        state = dict(pair.split("=") for pair in urlsplit(page.location).query.split("&"))["state"]
        callback = "/_yizhan/account/sso/callback"
        page = await browser.opens(f"{callback}?error=access_denied&state={state}")
        assert "did not agree" in page.text
        page = await browser.opens(REDIRECT)
        assert page.location is not None
        back = await at_provider(page.location, "li")
        server.clock.pass_seconds(601)
        page = await browser.opens(back)
        assert "has expired" in page.text
        assert (await browser.opens(callback)).status == 403


async def test_a_provider_that_is_not_listed_is_never_called(start_both: StartBoth) -> None:
    server = await start_both({"li": LI}, **{"outbound.allow": ()})
    async with Browser(server.url) as browser:
        page = await browser.opens(REDIRECT)
    assert (page.status, page.location) == (403, None)
