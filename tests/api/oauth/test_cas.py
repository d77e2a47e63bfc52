"""Signing in through a CAS server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from yizhan_testing.account_server import PASSWORD
from yizhan_testing.browser import Browser
from yizhan_testing.cas_server import CasServer, cas_server, success
from yizhan_testing.oauth_client import OAuthClient, answer_in, whoami

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer, StartServer

REDIRECT = "/_matrix/client/v3/login/sso/redirect?redirectUrl=https://app.example/?a=1"
NAME = "<cas:displayName>李明</cas:displayName>"


async def client_signs_in(server: AccountServer, cas: CasServer, name: str) -> dict[str, Any]:
    """Go the way of a client of the older kind, the way back in another browser."""
    async with Browser(server.url) as browser, Browser(server.url) as other:
        page = await browser.opens(REDIRECT)
        assert page.location is not None, page.text
        page = await other.opens(cas.signs_in(page.location, name))
    assert page.status == 200, page.text
    [onwards] = [link for link in page.links if link.startswith("https://app.example/")]
    assert "app.example" in page.text
    token = parse_qs(urlsplit(onwards).query)["loginToken"][0]
    answer = await server.call("POST", "/v3/login", {"type": "m.login.token", "token": token})
    assert answer.status == 200, answer.json
    session: dict[str, Any] = answer.json
    assert session["user_id"] in page.text
    return session


async def test_a_client_of_the_older_kind_signs_in(start_server: StartServer) -> None:
    async with cas_server({"li": success("Li!", NAME)}) as (cas, settings):
        server = await start_server(**settings)
        flows = [flow["type"] for flow in (await server.call("GET", "/v3/login")).json["flows"]]
        assert {"m.login.sso", "m.login.cas"} <= {*flows}
        first = await client_signs_in(server, cas, "li")
        again = await client_signs_in(server, cas, "li")
    assert first["user_id"] == again["user_id"] == "@li=21:home.test"
    profile = await server.call("GET", f"/v3/profile/{first['user_id']}")
    assert profile.json["displayname"] == "李明"
    assert cas.asked == [("/cas/p3/serviceValidate", True)] * 2


async def test_a_newer_client_signs_in_through_the_pages(start_server: StartServer) -> None:
    async with cas_server({"li": success("li")}) as (cas, settings):
        server = await start_server(**settings, **{"sso.cas.validation": "serviceValidate"})
        client = await OAuthClient.register(server)
        async with Browser(server.url) as browser, Browser(server.url) as other:
            page = await browser.opens(client.authorize_path())
            [button] = [link for link in page.links if "/sso?" in link]
            page = await browser.opens(button)
            assert page.location is not None, page.text
            back = cas.signs_in(page.location, "li")
            # It ends in the browser in which it began.
            assert (await other.opens(back)).status == 403
            assert cas.asked == []
            page = await browser.opens(back)
            page = await browser.sends(page.form("/authorize"), press="allow")
            answer = await client.redeems(answer_in(page)["code"])
    who = await whoami(server, answer.json["access_token"])
    assert who.json["user_id"] == "@li:home.test"
    assert cas.asked == [("/cas/serviceValidate", True)]


async def test_accounts_of_that_name_are_handed_over_only_where_configured(
    start_server: StartServer,
) -> None:
    async with cas_server({"li": success("li")}) as (cas, settings):
        server = await start_server(**settings)
        await server.services.accounts.create("li", PASSWORD)
        async with Browser(server.url) as browser:
            page = await browser.opens(REDIRECT)
            assert page.location is not None
            page = await browser.opens(cas.signs_in(page.location, "li"))
        assert (page.status, "does not own" in page.text) == (403, True)
        assert "loginToken" not in page.source


@pytest.mark.parametrize(
    "answer",
    [
        success("li", more="<cas:proxies><cas:proxy>https://x</cas:proxy></cas:proxies>"),
        success(""),
        success("li</cas:user><cas:user>wang").replace("&lt;", "<").replace("&gt;", ">"),
        success("li").replace("http://www.yale.edu/tp/cas", "http://other.example"),
        "<!DOCTYPE a [<!ENTITY b 'c'>]>" + success("li"),
        success("li")[:-5],
        "not XML",
        "",
    ],
    ids=["proxied", "nobody", "two", "namespace", "doctype", "torn", "text", "empty"],
)
async def test_an_answer_that_does_not_name_one_person_lets_nobody_in(
    start_server: StartServer, answer: str
) -> None:
    async with cas_server({"li": answer, "honest": success("honest")}) as (cas, settings):
        server = await start_server(**settings)
        async with Browser(server.url) as browser:
            page = await browser.opens(REDIRECT)
            assert page.location is not None
            page = await browser.opens(cas.signs_in(page.location, "li"))
            assert (page.status, "loginToken" in page.source) == (403, False), page.text
        assert cas.asked[-1][1]
        assert (await client_signs_in(server, cas, "honest"))["user_id"] == "@honest:home.test"


async def test_a_ticket_is_good_once_and_for_its_own_client(start_server: StartServer) -> None:
    async with cas_server({"li": success("li")}) as (cas, settings):
        server = await start_server(**settings)
        async with Browser(server.url) as browser:
            page = await browser.opens(REDIRECT)
            assert page.location is not None
            back = cas.signs_in(page.location, "li")
            assert (await browser.opens(back.replace("app.example", "evil.example"))).status == 403
            back = cas.signs_in(page.location, "li")
            assert (await browser.opens(back)).status == 200
            assert (await browser.opens(back)).status == 403
            bare = await browser.opens(back.partition("&ticket")[0])
            assert "did not agree" in bare.text
            wrong = await browser.opens(back.replace("https%3A", "javascript%3A"))
            assert wrong.status == 400
