"""Looking after one's account: name, devices, password, cryptographic identity, its end.

What cannot be undone is done only by who proved within the last minutes to be the owner.

Spec: client-server API, "Account management"; the older action names are those of MSC4191.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from yizhan_server.accounts.identity_reset import LIFETIME_MS
from yizhan_server.accounts.profiles import DISPLAY_NAME
from yizhan_server.accounts.sessions import MAX_DEVICE_NAME_BYTES
from yizhan_server.api.oauth import ACCOUNT_PATH
from yizhan_server.oauth.clients import parse_client
from yizhan_server.pages.visitor import Pages, Visitor
from yizhan_server.protocol.errors import Forbidden, InvalidParam, MatrixError, NotFound
from yizhan_server.protocol.identifiers import localpart_of
from yizhan_server.storage.oauth import find_clients_of

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_server.storage.devices import Device

pages = Pages()

_PAGE_OF_ACTION = {
    "profile": "profile",
    "devices_list": "devices",
    "sessions_list": "devices",
    "device_view": "device",
    "session_view": "device",
    "device_delete": "device",
    "session_end": "device",
    "account_deactivate": "deactivate",
    "cross_signing_reset": "reset-identity",
}


@pages.get("/")
async def show_overview(visitor: Visitor) -> web.StreamResponse:
    """Show what there is, or go where a client's link (`action`) leads."""
    action = (visitor.call.query("action") or "").removeprefix("org.matrix.")
    page = _PAGE_OF_ACTION.get(action)
    if page == "device":
        return visitor.go_to_page(page, device_id=visitor.call.query("device_id") or "")
    if page is not None:
        return visitor.go_to_page(page)
    if visitor.session is None:
        return visitor.go_sign_in()
    profile = await visitor.services.profiles.find(visitor.account.user_id)
    addresses = await visitor.services.email_addresses.find_all(visitor.account.user_id)
    return visitor.show(
        "overview.html",
        addresses=[each.address for each in addresses],
        display_name=profile.get(DISPLAY_NAME),
        has_password=visitor.account.password_hash is not None,
    )


# region profile


@pages.get("/profile")
async def show_profile(visitor: Visitor) -> web.StreamResponse:
    """Show the display name."""
    if visitor.session is None:
        return visitor.go_sign_in()
    return await _profile_page(visitor)


async def _profile_page(
    visitor: Visitor, *, done: str | None = None, failure: str | None = None
) -> web.Response:
    profile = await visitor.services.profiles.find(visitor.account.user_id)
    return visitor.show(
        "profile.html",
        status=200 if failure is None else 400,
        display_name=profile.get(DISPLAY_NAME, ""),
        done=done,
        failure=failure,
    )


@pages.post("/profile")
async def change_profile(visitor: Visitor) -> web.StreamResponse:
    """Change the display name."""
    form = await visitor.form()
    if visitor.account.is_suspended:
        failure = visitor.t("您的账号已被禁言。", "Your account is suspended.")
        return await _profile_page(visitor, failure=failure)
    name = form.get("display_name", "").strip()
    try:
        await visitor.services.profile_change.set(visitor.account.user_id, DISPLAY_NAME, name)
    except MatrixError:
        failure = visitor.t("这个名字不能用。", "This name cannot be used.")
        return await _profile_page(visitor, failure=failure)
    return await _profile_page(visitor, done=visitor.t("已保存。", "Saved."))


# region devices


@pages.get("/devices")
async def show_devices(visitor: Visitor) -> web.StreamResponse:
    """List the devices."""
    if visitor.session is None:
        return visitor.go_sign_in()
    devices = await visitor.services.sessions.find_all(visitor.account.user_id)
    devices.sort(key=lambda device: device.last_seen_ms or 0, reverse=True)
    clients = await find_clients_of(visitor.services.db, visitor.account.user_id)
    shown = [(device, _client_name(clients, device), _seen(device)) for device in devices]
    return visitor.show("devices.html", devices=shown)


@pages.get("/device")
async def show_device(visitor: Visitor) -> web.StreamResponse:
    """Show one device, to be renamed or signed out."""
    if visitor.session is None:
        return visitor.go_sign_in()
    return await _device_page(visitor)


async def _device_page(
    visitor: Visitor, *, done: str | None = None, failure: str | None = None
) -> web.Response:
    user_id = visitor.account.user_id
    try:
        device = await visitor.services.sessions.get(user_id, visitor.call.query("device_id") or "")
    except (NotFound, InvalidParam):
        return visitor.message(
            visitor.t("没有这台设备", "No such device"),
            visitor.t("它可能已经退出。", "It may have signed out already."),
            (f"{ACCOUNT_PATH}/devices", visitor.t("全部设备", "All devices")),
        )
    clients = await find_clients_of(visitor.services.db, user_id)
    return visitor.show(
        "device.html",
        status=200 if failure is None else 400,
        device=device,
        client=_client_name(clients, device),
        seen=_seen(device),
        max_name=MAX_DEVICE_NAME_BYTES,
        here=visitor.here,
        done=done,
        failure=failure,
    )


@pages.post("/device")
async def change_device(visitor: Visitor) -> web.StreamResponse:
    """Rename a device, or sign it out."""
    form = await visitor.form()
    user_id, device_id = visitor.account.user_id, visitor.call.query_required("device_id")
    if form.get("do") == "sign_out":
        await visitor.services.logout.end(user_id, [device_id])
        return visitor.message(
            visitor.t("设备已退出", "The device is signed out"),
            visitor.t(
                "它不能再读取或发送您的消息。", "It reads and sends no more of your messages."
            ),
            (f"{ACCOUNT_PATH}/devices", visitor.t("全部设备", "All devices")),
        )
    try:
        await visitor.services.device_rename.rename(user_id, device_id, form.get("name", ""))
    except InvalidParam:
        failure = visitor.t("这个名字不能用。", "This name cannot be used.")
        return await _device_page(visitor, failure=failure)
    return await _device_page(visitor, done=visitor.t("已保存。", "Saved."))


def _client_name(clients: dict[str, tuple[str, bytes]], device: Device) -> str | None:
    found = clients.get(device.device_id)
    return None if found is None else parse_client(*found).name


def _seen(device: Device) -> str | None:
    if device.last_seen_ms is None:
        return None
    moment = datetime.fromtimestamp(device.last_seen_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")


# region password


@pages.get("/password")
async def show_password(visitor: Visitor) -> web.StreamResponse:
    """Ask for the old and a new password."""
    if visitor.session is None:
        return visitor.go_sign_in()
    return visitor.show("password.html", failure=None)


@pages.post("/password", limit="login")
async def change_password(visitor: Visitor) -> web.StreamResponse:
    """Change the password."""
    form = await visitor.form()
    user_id, new = visitor.account.user_id, form.get("new_password", "")
    if new != form.get("new_password2"):
        failure = visitor.t("两次输入的新密码不同。", "The two new passwords differ.")
        return visitor.show("password.html", status=400, failure=failure)
    services = visitor.services
    try:
        services.passwords.check_strength(new, localpart_of(user_id))
        await services.accounts.check_password(localpart_of(user_id), form.get("password", ""))
        await services.password_change.set(user_id, new, logout_devices=form.get("sign_out") == "1")
    except Forbidden:
        failure = visitor.t("现在的密码不对。", "The present password is wrong.")
        return visitor.show("password.html", status=403, failure=failure)
    except MatrixError as error:
        if error.errcode != "M_WEAK_PASSWORD":
            raise
        failure = visitor.t("新密码太短或太简单。", "The new password is too short or too simple.")
        return visitor.show("password.html", status=400, failure=failure)
    visitor.session = None
    page = visitor.message(
        visitor.t("密码已更换", "The password has been changed"),
        visitor.t("请用新密码重新登录这个页面。", "Sign in to this page again, with the new one."),
        (f"{ACCOUNT_PATH}/login", visitor.t("登录", "Sign in")),
    )
    visitor.signed_out(page)
    return page


# region what cannot be undone


@pages.get("/reset-identity")
async def show_reset(visitor: Visitor) -> web.StreamResponse:
    """Explain what a new cryptographic identity costs, and ask."""
    if visitor.session is None or not visitor.session.is_recently_proved:
        return visitor.go_sign_in(again=visitor.session is not None)
    return visitor.show("reset.html", minutes=LIFETIME_MS // 60_000)


@pages.post("/reset-identity")
async def allow_reset(visitor: Visitor) -> web.StreamResponse:
    """Let the next upload replace the cross-signing keys."""
    await visitor.form()
    if visitor.session is None or not visitor.session.is_recently_proved:
        return visitor.go_sign_in(again=visitor.session is not None)
    await visitor.services.identity_resets.allow(visitor.account.user_id)
    return visitor.message(
        visitor.t("已允许重设", "The reset is allowed"),
        visitor.t(
            f"请在{LIFETIME_MS // 60_000}分钟内回到应用完成重设。",
            f"Go back to the app and finish the reset within {LIFETIME_MS // 60_000} minutes.",
        ),
    )


@pages.get("/deactivate")
async def show_deactivation(visitor: Visitor) -> web.StreamResponse:
    """Explain what the end of an account means, and ask."""
    if visitor.session is None or not visitor.session.is_recently_proved:
        return visitor.go_sign_in(again=visitor.session is not None)
    return visitor.show("deactivate.html", failure=None)


@pages.post("/deactivate")
async def deactivate(visitor: Visitor) -> web.StreamResponse:
    """End the account."""
    form = await visitor.form()
    if visitor.session is None or not visitor.session.is_recently_proved:
        return visitor.go_sign_in(again=visitor.session is not None)
    user_id = visitor.account.user_id
    if form.get("confirm", "").strip() not in (user_id, localpart_of(user_id)):
        failure = visitor.t("输入的用户名不是您的。", "That is not your user name.")
        return visitor.show("deactivate.html", status=400, failure=failure)
    await visitor.services.deactivation.deactivate(user_id, erase=form.get("erase") == "1")
    visitor.session = None
    page = visitor.message(
        visitor.t("账号已停用", "The account has been deactivated"),
        visitor.t("这个用户名不会再给别人使用。", "Nobody will get this user name again."),
    )
    visitor.signed_out(page)
    return page
