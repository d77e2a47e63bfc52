"""A whole sign-in on a page, for an app that knows none of the ways to sign in.

The app shows the page in a browser within itself, where it has put a function that gets what
`POST /login` would have answered. Nobody is signed in by a link alone, but by a button.

Spec: client-server API, "Login Fallback".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from yizhan_server.api.login import describe_login
from yizhan_server.pages.visitor import Pages, Visitor

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_server.api.routing import JsonObject

pages = Pages()
static_pages = Pages(prefix="/_matrix/static/client")

_FORWARDED = ("device_id", "initial_device_display_name", "refresh_token")
"""What is no credential of all that `POST /login` takes."""


@static_pages.get("/login/")
async def open_app_login(visitor: Visitor) -> web.StreamResponse:
    """Bring the browser to the page: cookies are tied to where it is."""
    given = {name: visitor.call.query(name) for name in _FORWARDED}
    return visitor.go_to_page("app-login", **{k: v for k, v in given.items() if v is not None})


@pages.get("/app-login")
async def show_app_login(visitor: Visitor) -> web.StreamResponse:
    """Have the visitor prove who they are, and ask."""
    if visitor.session is None or not visitor.session.is_recently_proved:
        return visitor.go_sign_in(again=visitor.session is not None)
    return visitor.show("app_login.html", here=visitor.here)


@pages.post("/app-login", limit="login")
async def log_in_app(visitor: Visitor) -> web.StreamResponse:
    """Start a session and hand it to the app."""
    await visitor.form()
    browser = visitor.session
    if browser is None or not browser.is_recently_proved:
        return visitor.go_to(visitor.here)
    session = await visitor.services.accounts.sign_in(
        browser.account,
        device_id=visitor.call.query("device_id"),
        display_name=visitor.call.query("initial_device_display_name"),
        refreshable=visitor.call.query("refresh_token") == "true",
    )
    script = _tell_the_app(describe_login(visitor.services, session))
    # What the app's own browser was for is done.
    await visitor.services.browser_sessions.end(browser.token)
    return visitor.signed_out(visitor.show("confirmed.html", script=script))


def _tell_the_app(answer: JsonObject) -> str:
    # Within a script element, nothing that could end it.
    response = orjson.dumps(answer).decode().replace("<", "\\u003c")
    return f"""
if (window.matrixLogin && window.matrixLogin.onLogin) {{
    window.matrixLogin.onLogin({response});
}}
"""
