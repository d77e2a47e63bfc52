"""Confirming, on a page, what an app asks that cannot ask for a password, or where there is none.

The app opens the page in a browser; the person proves, here or at the provider, who they are and
presses a button under the words for what the app is about to do; the app asks again, and may.

Spec: client-server API, "Single Sign-On" and "Fallback" of the User-Interactive Authentication API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.accounts.confirmation import PASSWORD, SSO
from yizhan_server.pages.sign_in import go_to_provider
from yizhan_server.pages.visitor import Pages, Visitor
from yizhan_server.protocol.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_server.accounts.confirmation_sessions import Begun

pages = Pages()
fallback_pages = Pages(prefix="/_matrix/client")

# Word for word what the specification demands of the page.
_TELL_THE_APP = """
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
"""

_WORDS = (
    ("/account/deactivate", "永久注销您的账号", "end your account for good"),
    ("/account/password", "更改您的密码", "change your password"),
    ("/keys/device_signing/upload", "设置您的加密身份", "set up your cryptographic identity"),
    ("/login/get_token", "让另一台设备登录您的账号", "sign in another device to your account"),
    ("/delete_devices", "退出您的其他设备", "sign out devices of yours"),
    ("/devices/", "退出您的一台设备", "sign out a device of yours"),
)


@fallback_pages.get(f"/v3/auth/{SSO}/fallback/web")
async def open_confirmation(visitor: Visitor) -> web.StreamResponse:
    """Bring the browser to the page: cookies are tied to where it is."""
    return visitor.go_to_page("confirm", session=visitor.call.query_required("session"))


@fallback_pages.get(f"/v3/auth/{PASSWORD}/fallback/web")
async def open_confirmation_by_password(visitor: Visitor) -> web.StreamResponse:
    """Bring the browser to the page, which asks for the password."""
    session = visitor.call.query_required("session")
    return visitor.go_to_page("confirm", session=session, stage=PASSWORD)


@pages.get("/confirm", limit="login")
async def show_confirmation(visitor: Visitor) -> web.StreamResponse:
    """Have the visitor prove who they are, and ask."""
    _, begun = _find(visitor)
    if visitor.session is None or not visitor.session.is_recently_proved:
        if _stage(visitor) == PASSWORD:
            return visitor.go_sign_in(again=True)
        return await go_to_provider(visitor, visitor.here, again=True)
    if visitor.account.user_id != begun.user_id:
        return _of_another(visitor, begun)
    return visitor.show("confirm.html", act=_describe(visitor, begun), here=visitor.here)


@pages.post("/confirm")
async def confirm(visitor: Visitor) -> web.StreamResponse:
    """Let the app do it once."""
    await visitor.form()
    session, begun = _find(visitor)
    if visitor.session is None or not visitor.session.is_recently_proved:
        return visitor.go_to(visitor.here)
    if visitor.account.user_id != begun.user_id:
        return _of_another(visitor, begun)
    await visitor.services.confirmations.confirm_on_page(session, begun, _stage(visitor))
    return visitor.show("confirmed.html", script=_TELL_THE_APP)


def _stage(visitor: Visitor) -> str:
    """Return the stage that the page stands for; whether it helps is for the app's request."""
    return PASSWORD if visitor.call.query("stage") == PASSWORD else SSO


def _find(visitor: Visitor) -> tuple[str, Begun]:
    session = visitor.call.query_required("session")
    begun = visitor.services.confirmations.find_begun(session)
    if begun is None:
        raise NotFound("There is nothing to confirm here, or no longer")
    return session, begun


def _of_another(visitor: Visitor, begun: Begun) -> web.Response:
    page = visitor.message(
        visitor.t("这不是您的账号", "This is not your account"),
        visitor.t(
            f"应用以 {begun.user_id} 登录，而您在这里是 {visitor.account.user_id}。",
            f"The app is signed in as {begun.user_id}, but here you are {visitor.account.user_id}.",
        ),
    )
    page.set_status(403)
    return page


def _describe(visitor: Visitor, begun: Begun) -> str:
    for part, zh, en in _WORDS:
        if part in begun.operation:
            return visitor.t(zh, en)
    return begun.operation
