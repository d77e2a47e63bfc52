"""Signing in to these pages, creating an account where that is open, and signing out."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from yizhan_server.accounts.confirmation import Confirmed
from yizhan_server.accounts.email_addresses import EMAIL
from yizhan_server.api.oauth import ACCOUNT_PATH
from yizhan_server.pages.visitor import Pages, Visitor
from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.sso.sign_in import ATTEMPT_LASTS_MS, SignInFailed

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_server.storage.accounts import Account

pages = Pages()

_SSO_COOKIE = "sso"


@pages.get("/login")
async def show_login(visitor: Visitor) -> web.StreamResponse:
    """Ask for name and password, or offer the provider."""
    again = visitor.call.query("again") is not None
    if visitor.session is not None and not again:
        return visitor.go_to(visitor.next_page)
    return _login_page(visitor, visitor.session.account.user_id if visitor.session else "")


def _login_page(
    visitor: Visitor, name: str, *, failure: str | None = None, status: int = 200
) -> web.Response:
    sso, registration = visitor.services.sso, visitor.services.registration
    return visitor.show(
        "login.html",
        status=status,
        next=visitor.next_page,
        name=name,
        failure=failure,
        provider=None if sso is None else sso.name,
        can_register=registration.is_open and not registration.requires_email,
        is_again=visitor.session is not None,
    )


@pages.post("/login", limit="login")
async def log_in(visitor: Visitor) -> web.StreamResponse:
    """Check name (or e-mail address) and password."""
    form = await visitor.form()
    name = form.get("name", "").strip()
    emails, named = visitor.services.email_addresses, name
    if emails.is_enabled and "@" in name[1:]:
        named = await emails.find_name({"medium": EMAIL, "address": name}, None) or ""
    try:
        account = await visitor.services.accounts.check_password(named, form.get("password", ""))
    except Forbidden:
        failure = visitor.t("用户名或密码不对。", "Wrong user name or password.")
        return _login_page(visitor, name, failure=failure, status=403)
    return await _start(visitor, account, visitor.next_page)


async def _start(visitor: Visitor, account: Account, target: str) -> web.StreamResponse:
    if visitor.session is not None:
        await visitor.services.browser_sessions.end(visitor.session.token)
    return visitor.signed_in(await visitor.services.browser_sessions.start(account), target)


@pages.post("/logout")
async def log_out(visitor: Visitor) -> web.StreamResponse:
    """Sign this browser out; the account's devices stay."""
    await visitor.form()
    if visitor.session is not None:
        await visitor.services.browser_sessions.end(visitor.session.token)
    return visitor.signed_out(visitor.go_to_page("login", next=visitor.next_page))


# region a new account


@pages.get("/register")
async def show_registration(visitor: Visitor) -> web.StreamResponse:
    """Ask for what a new account needs."""
    if visitor.session is not None:
        return visitor.go_to(visitor.next_page)
    if visitor.services.registration.requires_email:
        return visitor.message(
            visitor.t("请在应用里注册", "Create your account in an app"),
            visitor.t("注册需要验证邮箱。", "Your e-mail address is to be verified for it."),
        )
    if not visitor.services.registration.is_open:
        return visitor.message(
            visitor.t("注册未开放", "Registration is closed"),
            visitor.t("账号由管理员建立。", "Accounts are created by the administrator."),
            (
                f"{ACCOUNT_PATH}/login?{urlencode({'next': visitor.next_page})}",
                visitor.t("登录", "Sign in"),
            ),
        )
    return _registration_page(visitor, {})


def _registration_page(
    visitor: Visitor, form: dict[str, str], failure: str | None = None
) -> web.Response:
    return visitor.show(
        "register.html",
        status=200 if failure is None else 400,
        next=visitor.next_page,
        name=form.get("name", ""),
        token=form.get("token", ""),
        needs_token=visitor.services.registration.requires_token,
        failure=failure,
    )


@pages.post("/register", limit="registration")
async def register(visitor: Visitor) -> web.StreamResponse:
    """Create an account."""
    form = await visitor.form()
    registration = visitor.services.registration
    registration.get_flows()
    if registration.requires_email:
        raise Forbidden("An account needs a verified e-mail address")
    if form.get("password", "") != form.get("password2", ""):
        failure = visitor.t("两次输入的密码不同。", "The two passwords differ.")
        return _registration_page(visitor, form, failure)
    try:
        user_id, _ = await registration.register(
            form.get("name", "").strip(),
            form.get("password", ""),
            Confirmed(form.get("token", "").strip() if registration.requires_token else None),
            device_id=None,
            device_name=None,
            refreshable=False,
            inhibit_login=True,
        )
    except MatrixError as error:
        return _registration_page(visitor, form, _registration_failure(visitor, error))
    account = await visitor.services.accounts.find_active(user_id)
    if account is None:
        raise Forbidden("The account has ended already")
    return await _start(visitor, account, visitor.next_page)


def _registration_failure(visitor: Visitor, error: MatrixError) -> str:
    match error.errcode:
        case "M_USER_IN_USE":
            return visitor.t("这个用户名已有人使用。", "That user name is taken.")
        case "M_INVALID_USERNAME":
            return visitor.t(
                "用户名只能用小写字母、数字和 . _ = - /。",
                "A user name has only lower-case letters, digits and . _ = - /.",
            )
        case "M_WEAK_PASSWORD":
            return visitor.t("密码太短或太简单。", "The password is too short or too simple.")
        case "M_FORBIDDEN":
            return visitor.t("注册令牌无效。", "The registration token is not valid.")
        case _:
            raise error


# region a provider


# By GET: a policy for forms would have to name wherever the provider leads on to.
@pages.get("/sso", limit="login")
async def start_sso(visitor: Visitor) -> web.StreamResponse:
    """Send the browser to the provider."""
    return await go_to_provider(visitor, visitor.next_page, again=visitor.session is not None)


async def go_to_provider(
    visitor: Visitor, target: str, *, again: bool = False
) -> web.StreamResponse:
    """Send the browser to the provider, from which it comes back to `target`."""
    sso = visitor.services.sso
    if sso is None:
        raise Forbidden("There is no identity provider")
    try:
        url, browser = await sso.begin(target, again=again)
    except SignInFailed as failed:
        return sso_failure(visitor, failed)
    response = visitor.go_to(url)
    visitor.give_cookie(response, _SSO_COOKIE, browser, ATTEMPT_LASTS_MS // 1000)
    return response


@pages.get("/sso/callback")
async def finish_sso(visitor: Visitor) -> web.StreamResponse:
    """Take the browser back from the provider."""
    sso = visitor.services.sso
    if sso is None:
        raise Forbidden("There is no identity provider")
    try:
        account, target = await sso.complete(
            visitor.call.query("state") or "",
            visitor.read_cookie(_SSO_COOKIE),
            visitor.call.query("code") or visitor.call.query("ticket"),
        )
    except SignInFailed as failed:
        return sso_failure(visitor, failed)
    return await _start(visitor, account, target)


def sso_failure(visitor: Visitor, failed: SignInFailed) -> web.StreamResponse:
    """Tell why somebody could not be signed in through the provider."""
    sentences = {
        "expired": (
            "这次登录已经过期，或是在别的浏览器中开始的。请重新登录。",
            "This sign-in has expired, or began in another browser. Sign in again.",
        ),
        "refused": ("认证方没有同意登录。", "The identity provider did not agree."),
        "provider": (
            "暂时无法通过认证方登录，请稍后再试或联系管理员。",
            "Signing in through the identity provider does not work at the moment.",
        ),
        "no_name": (
            "认证方没有给出可用的用户名，请联系管理员。",
            "The identity provider did not give a usable user name. Ask your administrator.",
        ),
        "taken": (
            "同名账号已经存在，且不属于这个认证身份。请联系管理员。",
            "There is an account of that name which this identity does not own.",
        ),
        "unknown": (
            "这里没有您的账号，请联系管理员。",
            "You have no account here. Ask your administrator.",
        ),
    }
    page = visitor.message(
        visitor.t("无法登录", "You could not be signed in"),
        visitor.t(*sentences[failed.reason]),
        (f"{ACCOUNT_PATH}/login", visitor.t("返回登录", "Back to sign-in")),
    )
    page.set_status(403)
    return page
