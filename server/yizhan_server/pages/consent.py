"""Agreeing that a program may use one's account: by redirect, by a code, and the older way.

Nobody is sent anywhere by a link alone. Anyone may register a client, so an answer that went back
by itself would make this address lead to wherever a stranger likes: even an error goes back only
when the person presses the button that names the place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.api.form import read_query
from yizhan_server.oauth.authorization import RefusedToClient
from yizhan_server.oauth.redirects import (
    InvalidUri,
    add_login_token,
    check_client_url,
    describe_target,
    form_action_source,
)
from yizhan_server.pages.sign_in import go_to_provider
from yizhan_server.pages.visitor import Pages, Visitor
from yizhan_server.protocol.errors import InvalidParam, NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_server.oauth.clients import Client
    from yizhan_server.storage.oauth import DeviceCode

pages = Pages()


# region the authorization endpoint


@pages.get("/authorize")
async def ask_for_consent(visitor: Visitor) -> web.StreamResponse:
    """Ask the account's owner whether a client may sign in."""
    try:
        request = await visitor.services.oauth_authorizations.check(read_query(visitor.call))
    except RefusedToClient as refused:
        return _refused(visitor, refused)
    if visitor.session is None:
        is_open = visitor.services.registration.is_open
        return visitor.go_sign_in(register=request.wants_registration and is_open)
    uri = request.callback.redirect_uri
    return visitor.show(
        "consent.html",
        form_actions=(form_action_source(uri),),
        client=request.client,
        device_id=request.scope.device_id,
        target=describe_target(uri),
        here=visitor.here,
    )


@pages.post("/authorize")
async def decide_consent(visitor: Visitor) -> web.StreamResponse:
    """Take the answer back to the client."""
    form = await visitor.form()
    if visitor.session is None:
        return visitor.go_sign_in()
    authorizations = visitor.services.oauth_authorizations
    try:
        request = await authorizations.check(read_query(visitor.call))
    except RefusedToClient as refused:
        return _refused(visitor, refused)
    if form.get("decision") != "allow":
        return visitor.go_to(authorizations.deny(request))
    return visitor.go_to(await authorizations.grant(request, visitor.account))


def _refused(visitor: Visitor, refused: RefusedToClient) -> web.StreamResponse:
    return visitor.show(
        "message.html",
        status=400,
        title=visitor.t("应用的请求有误", "The app asked for something impossible"),
        text=visitor.t("您可以回到应用再试一次。", "You can go back to the app and try again."),
        link=(
            refused.location,
            visitor.t("返回应用：", "Back to the app: ") + describe_target(refused.location),
        ),
        detail=str(refused),
    )


# region the device grant


@pages.get("/link")
async def ask_for_code(visitor: Visitor) -> web.StreamResponse:
    """Ask for the code that a device shows."""
    if visitor.session is None:
        return visitor.go_sign_in()
    return _code_page(visitor, visitor.call.query("user_code") or "")


def _code_page(visitor: Visitor, code: str, failure: str | None = None) -> web.Response:
    status = 200 if failure is None else 400
    return visitor.show("code.html", status=status, code=code[:20], failure=failure)


@pages.post("/link", limit="login")
async def decide_device(visitor: Visitor) -> web.StreamResponse:
    """Show what a code stands for; with a decision, record it."""
    form = await visitor.form()
    if visitor.session is None:
        return visitor.go_sign_in()
    typed, decision = form.get("user_code", ""), form.get("decision")
    codes = visitor.services.oauth_device_codes
    try:
        code, client = await codes.find_pending(visitor.account, typed)
        if decision not in ("allow", "deny"):
            return _device_page(visitor, code, client)
        await codes.decide(visitor.account, code, is_approved=decision == "allow")
    except NotFound:
        failure = visitor.t("代码不对或已过期。", "The code is wrong or has expired.")
        return _code_page(visitor, typed, failure)
    if decision == "allow":
        return visitor.message(
            visitor.t("已同意", "Allowed"),
            visitor.t("请回到您的设备，它会自动登录。", "Go back to your device; it signs in now."),
        )
    return visitor.message(
        visitor.t("已拒绝", "Refused"), visitor.t("那台设备不会登录。", "The device stays out.")
    )


def _device_page(visitor: Visitor, code: DeviceCode, client: Client) -> web.Response:
    shown = f"{code.user_code[:4]}-{code.user_code[4:]}"
    return visitor.show("device_consent.html", client=client, code=shown, device_id=code.device_id)


# region clients of the older kind, by a sign-in token


@pages.get("/client", limit="login")
async def ask_for_client(visitor: Visitor) -> web.StreamResponse:
    """Ask whether a client may sign in by a token in its URL."""
    url = client_url(visitor)
    if visitor.session is None:
        sso, idp = visitor.services.sso, visitor.call.query("idp")
        if sso is not None and idp == sso.idp_id:
            return await go_to_provider(visitor, visitor.here)
        wanted = visitor.call.query("action") == "register"
        return visitor.go_sign_in(register=wanted and visitor.services.registration.is_open)
    return visitor.show(
        "client.html",
        form_actions=(form_action_source(url),),
        target=describe_target(url),
        here=visitor.here,
    )


@pages.post("/client")
async def decide_client(visitor: Visitor) -> web.StreamResponse:
    """Send the browser to the client with a token."""
    form = await visitor.form()
    url = client_url(visitor)
    if visitor.session is None:
        return visitor.go_sign_in()
    if form.get("decision") != "allow":
        return visitor.message(
            visitor.t("已拒绝", "Refused"),
            visitor.t("您可以关闭这个页面。", "You may close this page."),
        )
    token, _ = await visitor.services.accounts.make_login_token(visitor.account.user_id)
    return visitor.go_to(add_login_token(url, token))


def client_url(visitor: Visitor) -> str:
    """Return where a client of the older kind wants its token, or answer M_INVALID_PARAM."""
    url = visitor.call.query_required("redirectUrl")
    try:
        check_client_url(url)
    except InvalidUri as error:
        raise InvalidParam(f"'redirectUrl': {error}") from None
    return url
