"""The account pages: what they do for their owner, and for nobody else."""

from __future__ import annotations

import pytest

from yizhan_testing.account_server import PASSWORD, AccountServer, StartServer
from yizhan_testing.browser import Browser, Page
from yizhan_testing.oauth_client import OAuthClient

ACCOUNT = "/_yizhan/account"


async def enters(browser: Browser, page: str = "/", name: str = "alice") -> Page:
    """Sign in and open a page."""
    return await browser.signs_in(await browser.opens(ACCOUNT + page), name, PASSWORD)


async def test_pages_speak_both_languages_and_forbid_everything_else(
    server: AccountServer, browser: Browser
) -> None:
    page = await browser.opens(f"{ACCOUNT}/login")
    assert "Sign in" in page.text
    assert page.headers["Content-Language"] == "en"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in page.headers
    assert not page.tags & {"script", "img", "iframe", "link"}

    page = await browser.opens(f"{ACCOUNT}/login?lang=zh")
    assert "登录" in page.text
    page = await browser.opens(f"{ACCOUNT}/login")
    assert "登录" in page.text  # it was remembered


async def test_cookies_are_out_of_reach(start_server: StartServer) -> None:
    server = await start_server(public__client_baseurl="https://home.test")

    async with server.http.get(f"{server.url}{ACCOUNT}/login") as response:
        [cookie] = response.headers.getall("Set-Cookie")

    assert cookie.startswith("__Host-yizhan-form=")
    for attribute in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/"):
        assert attribute in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/_yizhan/account//evil.example",
        "/_yizhan/account/\\..\\evil",
        "/_yizhan/account/../../evil",
        "/_matrix/client/v3/login/sso/redirect?redirectUrl=https://evil.example",
        "javascript:alert(1)",
        "/_yizhan/account/devices\r\nSet-Cookie: x=y",
    ],
)
async def test_signing_in_leads_to_our_own_pages_only(
    server: AccountServer, browser: Browser, target: str
) -> None:
    await server.has("alice")
    page = await browser.opens(f"{ACCOUNT}/login")
    form = page.form("/login")

    page = await browser.posts(
        f"{ACCOUNT}/login?next=" + "".join(f"%{byte:02x}" for byte in target.encode()),
        form.fields | {"name": "alice", "password": PASSWORD},
    )

    assert (page.location, page.status, page.url.path) == (None, 200, f"{ACCOUNT}/")


async def test_a_form_of_anybody_else_s_is_refused(server: AccountServer, browser: Browser) -> None:
    alice = await server.has("alice")
    client = await OAuthClient.register(server)
    await enters(browser)
    consent = await browser.opens(client.authorize_path())
    form = consent.form("/authorize")

    for fields, headers in (
        ({"decision": "allow"}, {}),
        ({"decision": "allow", "csrf": ""}, {}),
        ({"decision": "allow", "csrf": "0" * 64}, {}),
        ({"decision": "allow", **form.fields}, {"Sec-Fetch-Site": "cross-site"}),
        ({"decision": "allow", **form.fields}, {"Sec-Fetch-Site": "same-site"}),
    ):
        page = await browser.posts(form.action, fields, headers)
        assert (page.status, page.location) == (403, None)
    for path in ("/deactivate", "/reset-identity", "/profile", "/device?device_id=x", "/password"):
        page = await browser.posts(ACCOUNT + path, {"confirm": "alice", "do": "sign_out"})
        assert page.status == 403
    # The code of one browser is worth nothing in another.
    async with Browser(server.url) as other:
        await enters(other)
        page = await other.posts(form.action, {"decision": "allow", **form.fields})
        assert page.status == 403
    assert await alice.is_signed_in()


async def test_a_wrong_password_is_told_and_attempts_are_limited(
    start_server: StartServer,
) -> None:
    server = await start_server(rate_limits__enabled=True)
    await server.services.accounts.create("alice", PASSWORD)
    async with Browser(server.url) as browser:
        page = await browser.opens(f"{ACCOUNT}/login")
        for _ in range(25):
            page = await browser.signs_in(page, "alice", "wrong")
            if page.status == 429:
                break
            assert page.status == 403
            assert "Wrong user name or password" in page.text

        assert page.status == 429
        assert "Too many attempts" in page.text
        assert int(page.headers["Retry-After"]) > 0


async def test_devices_are_listed_renamed_and_signed_out(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    client = await OAuthClient.register(server)
    await client.signs_in(browser, "alice")

    page = await browser.opens(f"{ACCOUNT}/?action=org.matrix.devices_list")
    assert "Postbox" in page.text
    page = await browser.opens(f"{ACCOUNT}/?action=org.matrix.device_view&device_id=PHONE")
    await browser.sends(page.form("/device"), press="rename", name="My <phone>")
    listed = (await alice.calls("GET", "/v3/devices/PHONE")).json
    assert listed["display_name"] == "My <phone>"
    page = await browser.opens(f"{ACCOUNT}/?action=org.matrix.session_end&device_id=PHONE")
    assert "My <phone>" in page.text
    [ending] = [form for form in page.forms if ("do", "sign_out") in form.buttons]
    await browser.sends(ending, press="sign_out")

    assert await alice.device_ids() == [alice.device_id]


async def test_nobody_sees_another_s_device(server: AccountServer, browser: Browser) -> None:
    alice = await server.has("alice")
    await server.has("mallory")
    await enters(browser, name="mallory")

    page = await browser.opens(f"{ACCOUNT}/device?device_id={alice.device_id}")

    assert "No such device" in page.text


async def test_the_name_is_changed_and_escaped(server: AccountServer, browser: Browser) -> None:
    alice = await server.has("alice")
    page = await enters(browser, "/profile")

    page = await browser.sends(page.form("/profile"), display_name="<script>Alice</script>")

    assert "Saved." in page.text
    assert "script" not in page.tags
    profile = await alice.calls("GET", f"/v3/profile/{alice.user_id}/displayname")
    assert profile.json["displayname"] == "<script>Alice</script>"


async def test_changing_the_password_ends_every_browser(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    async with Browser(server.url) as other:
        await enters(other)
        page = await enters(browser, "/password")
        new = {"new_password": "a better password", "new_password2": "a better password"}
        page = await browser.sends(page.form("/password"), password="wrong", **new)
        assert page.status == 403
        page = await browser.sends(page.form("/password"), password=PASSWORD, **new)
        assert "has been changed" in page.text

        assert (await other.opens(f"{ACCOUNT}/devices")).url.path.endswith("/login")
        assert (await browser.opens(f"{ACCOUNT}/devices")).url.path.endswith("/login")
    assert await alice.is_signed_in()
    await server.sign_in("alice", password="a better password")


async def test_signing_out_ends_the_session_itself(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    page = await enters(browser, "/devices")
    stolen = browser.cookies["yizhan-session"]
    await browser.sends(page.form("/logout"))

    headers = {"Cookie": f"yizhan-session={stolen}"}
    url = f"{server.url}{ACCOUNT}/devices"
    async with server.http.get(url, headers=headers, allow_redirects=False) as response:
        assert response.status == 303


async def test_logging_out_everywhere_ends_browsers_too(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    await enters(browser)
    await alice.calls("POST", "/v3/logout/all")

    assert (await browser.opens(f"{ACCOUNT}/devices")).url.path.endswith("/login")


async def test_a_session_ends_by_itself(server: AccountServer, browser: Browser) -> None:
    await server.has("alice")
    await enters(browser)
    server.clock.pass_seconds(12 * 3600 + 1)

    assert (await browser.opens(f"{ACCOUNT}/devices")).url.path.endswith("/login")


async def test_deactivating_asks_who_one_is_once_more(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    await enters(browser)
    server.clock.pass_seconds(601)

    page = await browser.opens(f"{ACCOUNT}/?action=org.matrix.account_deactivate")
    assert "Confirm that it is you" in page.text
    page = await browser.signs_in(page, "alice", PASSWORD)
    page = await browser.sends(page.form("/deactivate"), confirm="alicia")
    assert page.status == 400
    page = await browser.sends(page.form("/deactivate"), confirm="alice", erase="1")

    assert "has been deactivated" in page.text
    assert not await alice.is_signed_in()
    account = await server.services.accounts.find(alice.user_id)  # type: ignore[arg-type]
    assert account is not None
    assert account.is_deactivated
    assert account.is_erased


async def test_an_old_proof_does_not_deactivate(server: AccountServer, browser: Browser) -> None:
    alice = await server.has("alice")
    page = await enters(browser, "/deactivate")
    server.clock.pass_seconds(601)

    page = await browser.sends(page.form("/deactivate"), confirm="alice")

    assert "Confirm that it is you" in page.text
    assert await alice.is_signed_in()


async def test_an_older_client_gets_a_token_in_its_url(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    page = await browser.opens(
        "/_matrix/client/v3/login/sso/redirect"
        "?redirectUrl=https%3A%2F%2Fapp.example%2F%3Fx%3D1%26loginToken%3Dold%23f"
    )
    page = await browser.signs_in(page, "alice", PASSWORD)
    assert "app.example" in page.text
    page = await browser.sends(page.form("/client"), press="allow")

    assert page.location is not None
    start, token = page.location.removesuffix("#f").split("loginToken=")
    assert start == "https://app.example/?x=1&"
    answer = await server.call("POST", "/v3/login", {"type": "m.login.token", "token": token})
    assert answer.json["user_id"] == alice.user_id
    again = await server.call("POST", "/v3/login", {"type": "m.login.token", "token": token})
    assert again.errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "//evil", "/x", "", "https://a@b/", "https:"]
)
async def test_no_token_is_sent_to_what_is_no_client(
    server: AccountServer, browser: Browser, url: str
) -> None:
    await server.has("alice")
    answer = await server.call("GET", f"/v3/login/sso/redirect?redirectUrl={url}")
    assert answer.errcode == "M_INVALID_PARAM"
    await enters(browser)
    page = await browser.opens(f"{ACCOUNT}/client?redirectUrl={url}")
    assert (page.status, page.location) == (400, None)


async def test_an_unknown_provider_is_not_found(server: AccountServer) -> None:
    answer = await server.call("GET", "/v3/login/sso/redirect/other?redirectUrl=https://a.b/")
    assert answer.errcode == "M_NOT_FOUND"
    flows = (await server.call("GET", "/v3/login")).json["flows"]
    assert "m.login.sso" not in [flow["type"] for flow in flows]
