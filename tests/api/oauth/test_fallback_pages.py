"""Pages for apps that do not know what the server asks of them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from yizhan_testing.account_server import PASSWORD

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer
    from yizhan_testing.browser import Browser, Page

LOGIN = "/_matrix/static/client/login/"
BY_PASSWORD = "/_matrix/client/v3/auth/m.login.password/fallback/web"


def handed_over(page: Page) -> dict[str, Any]:
    """Return what the app's function is called with."""
    assert "script-src 'sha256-" in page.headers["Content-Security-Policy"]
    found = re.search(r"window\.matrixLogin\.onLogin\((\{.*\})\);", page.source)
    assert found is not None, page.source
    answer: dict[str, Any] = json.loads(found[1])
    return answer


async def test_an_app_that_knows_no_login_is_signed_in_on_a_page(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    page = await browser.opens(
        f"{LOGIN}?device_id=OLDPHONE&initial_device_display_name=Old%20phone&refresh_token=true"
    )
    page = await browser.signs_in(page, "alice", PASSWORD)
    assert alice.user_id in page.text
    assert await alice.device_ids() == [alice.device_id]

    answer = handed_over(await browser.sends(page.form("/app-login")))

    assert (answer["user_id"], answer["device_id"]) == (alice.user_id, "OLDPHONE")
    assert answer["refresh_token"]
    listed = await server.call("GET", "/v3/devices/OLDPHONE", token=answer["access_token"])
    assert listed.json["display_name"] == "Old phone"
    page = await browser.opens("/_yizhan/account/")
    assert page.url.path.endswith("/login")


async def test_no_link_signs_an_app_in(server: AccountServer, browser: Browser) -> None:
    alice = await server.has("alice")
    page = await browser.signs_in(await browser.opens(LOGIN), "alice", PASSWORD)
    assert "onLogin" not in page.source

    page = await browser.posts("/_yizhan/account/app-login", {"csrf": "0" * 64})

    assert page.status == 403
    assert await alice.device_ids() == [alice.device_id]


async def test_what_an_app_calls_its_device_stays_text(
    server: AccountServer, browser: Browser
) -> None:
    await server.has("alice")
    page = await browser.opens(f"{LOGIN}?device_id=%3C%2Fscript%3E%3Cb%3E")
    page = await browser.signs_in(page, "alice", PASSWORD)

    page = await browser.sends(page.form("/app-login"))

    assert "b" not in page.tags
    assert handed_over(page)["device_id"] == "</script><b>"


async def test_what_asks_for_a_password_can_be_confirmed_on_a_page(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    asked = await alice.calls("DELETE", f"/v3/devices/{alice.device_id}", {})
    session = {"auth": {"session": asked.json["session"]}}
    page = await browser.opens(f"{BY_PASSWORD}?session={asked.json['session']}")
    page = await browser.signs_in(page, "alice", PASSWORD)
    assert "sign out a device of yours" in page.text
    assert (await alice.calls("DELETE", f"/v3/devices/{alice.device_id}", session)).status == 401

    page = await browser.sends(page.form("/confirm"))

    assert "authDone" in page.source
    assert (await alice.calls("DELETE", f"/v3/devices/{alice.device_id}", session)).status == 200


async def test_somebody_else_s_password_confirms_nothing(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    await server.has("mallory")
    asked = await alice.calls("DELETE", f"/v3/devices/{alice.device_id}", {})
    page = await browser.opens(f"{BY_PASSWORD}?session={asked.json['session']}")

    page = await browser.signs_in(page, "mallory", PASSWORD)

    assert page.status == 403
    assert not [form for form in page.forms if "/confirm" in form.action]
