"""Confirming with the identity provider what an app asks of somebody without a password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from yizhan_testing.account_server import PASSWORD
from yizhan_testing.browser import Browser
from yizhan_testing.cas_server import CasServer, cas_server, success

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer, Answer, StartServer
    from yizhan_testing.browser import Page

REDIRECT = "/_matrix/client/v3/login/sso/redirect?redirectUrl=https://app.example/"
FALLBACK = "/_matrix/client/v3/auth/m.login.sso/fallback/web"
PEOPLE = {"li": success("li"), "wang": success("wang")}


async def signs_in(
    server: AccountServer, cas: CasServer, name: str, device_id: str
) -> dict[str, Any]:
    async with Browser(server.url) as browser:
        page = await browser.opens(REDIRECT)
        assert page.location is not None
        page = await browser.opens(cas.signs_in(page.location, name))
    [onwards] = [link for link in page.links if link.startswith("https://app.example/")]
    token = parse_qs(urlsplit(onwards).query)["loginToken"][0]
    body = {"type": "m.login.token", "token": token, "device_id": device_id}
    session: dict[str, Any] = (await server.call("POST", "/v3/login", body)).json
    return session


async def ends(
    server: AccountServer, token: str, device_id: str, auth: dict[str, Any] | None = None
) -> Answer:
    body = {} if auth is None else {"auth": auth}
    return await server.call("DELETE", f"/v3/devices/{device_id}", body, token=token)


async def at_provider(browser: Browser, cas: CasServer, session: str, name: str) -> Page:
    """Open the page of the stage and prove to be somebody; ends on our page."""
    page = await browser.opens(f"{FALLBACK}?session={session}")
    assert page.location is not None, page.text
    assert "renew=true" in page.location
    return await browser.opens(cas.signs_in(page.location, name))


async def test_what_was_confirmed_may_be_done_once(start_server: StartServer) -> None:
    async with cas_server(PEOPLE) as (cas, settings):
        server = await start_server(**settings)
        await signs_in(server, cas, "li", "OLD")
        token = (await signs_in(server, cas, "li", "NEW"))["access_token"]
        asked = await ends(server, token, "OLD")
        assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.sso"]}])
        session = asked.json["session"]
        unproven = await ends(server, token, "OLD", {"session": session})
        assert unproven.status == 401
        unproven = await ends(server, token, "OLD", {"session": session, "type": "m.login.sso"})
        assert (unproven.status, unproven.json["completed"]) == (401, [])

        async with Browser(server.url) as browser:
            page = await at_provider(browser, cas, session, "li")
            assert "sign out a device of yours" in page.text
            assert (await ends(server, token, "OLD", {"session": session})).status == 401
            page = await browser.sends(page.form("/confirm"))
            assert "Go back to the app" in page.text
            assert "authDone" in page.source
            assert "script-src 'sha256-" in page.headers["Content-Security-Policy"]

        elsewhere = await ends(server, token, "NEW", {"session": session})
        assert (elsewhere.status, elsewhere.errcode) == (403, "M_FORBIDDEN")
        assert (await ends(server, token, "OLD", {"session": session})).status == 200
        devices = (await server.call("GET", "/v3/devices", token=token)).json["devices"]
        assert [device["device_id"] for device in devices] == ["NEW"]
        assert (await ends(server, token, "OLD", {"session": session})).status == 401


async def test_somebody_else_at_the_provider_confirms_nothing(start_server: StartServer) -> None:
    async with cas_server(PEOPLE) as (cas, settings):
        server = await start_server(**settings)
        token = (await signs_in(server, cas, "li", "OLD"))["access_token"]
        session = (await ends(server, token, "OLD")).json["session"]
        async with Browser(server.url) as browser:
            page = await at_provider(browser, cas, session, "wang")
            assert page.status == 403
            assert all("/confirm" not in form.action for form in page.forms)
            assert "@wang:home.test" in page.text
        assert (await ends(server, token, "OLD", {"session": session})).status == 401

        async with Browser(server.url) as browser:
            server.clock.pass_seconds(901)
            gone = await browser.opens(f"{FALLBACK}?session={session}")
            assert gone.status == 404
            assert (await browser.opens(f"{FALLBACK}?session=x")).status == 404


async def test_who_has_a_password_as_well_may_choose(start_server: StartServer) -> None:
    async with cas_server(PEOPLE) as (cas, settings):
        server = await start_server(**settings, **{"sso.cas.link_existing_accounts": True})
        await server.services.accounts.create("li", PASSWORD)
        token = (await signs_in(server, cas, "li", "OLD"))["access_token"]
        asked = await ends(server, token, "OLD")
        stages = [flow["stages"] for flow in asked.json["flows"]]
        assert stages == [["m.login.password"], ["m.login.sso"]]
        auth = {"type": "m.login.password", "password": PASSWORD, "session": asked.json["session"]}
        assert (await ends(server, token, "OLD", auth)).status == 200


async def test_whom_no_provider_vouches_for_is_not_sent_to_it(start_server: StartServer) -> None:
    async with cas_server(PEOPLE) as (_, settings):
        server = await start_server(**settings)
        alice = await server.has("alice")
        asked = await alice.calls("DELETE", "/v3/devices/X", {})
        assert asked.json["flows"] == [{"stages": ["m.login.password"]}]
