"""The page behind the link of a mail: its reader agrees, by a button.

Opening it changes nothing, for scanners of mails open links too. The form needs no code against
forgery: who can send it has read the mail.

Spec: client-server API, "Account registration", "Password management", "Adding Account
Administrative Contact Information"; identity service API, "Email associations" (`next_link`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from yizhan_server.accounts.letters import PASSWORD, REGISTER
from yizhan_server.api.form import read_form
from yizhan_server.pages.visitor import Pages, Visitor
from yizhan_server.protocol.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_server.storage.email_addresses import Verification

pages = Pages()


@pages.get("/email", limit="login")
async def ask(visitor: Visitor) -> web.StreamResponse:
    """Say what the reader would agree to."""
    sid, token = visitor.call.query_required("sid"), visitor.call.query_required("token")
    verifications = visitor.services.email_verifications
    try:
        asked = await verifications.get_asked(sid, token)
    except NotFound:
        return _not_good(visitor)
    return visitor.show(
        "email.html", act=_describe(visitor, asked), address=asked.address, sid=sid, token=token
    )


@pages.post("/email", limit="login")
async def agree(visitor: Visitor) -> web.StreamResponse:
    """Let the app go on."""
    form = await read_form(visitor.call)
    verifications = visitor.services.email_verifications
    try:
        asked = await verifications.validate(form.get("sid", ""), form.get("token", ""))
    except NotFound:
        return _not_good(visitor)
    return visitor.message(
        visitor.t("邮箱已确认", "Your address is confirmed"),
        visitor.t("请回到应用继续。", "Go back to the app, which goes on now."),
        _onwards(visitor, asked),
    )


def _onwards(visitor: Visitor, asked: Verification) -> tuple[str, str] | None:
    """Return the link that the client wants its user to follow.

    Not followed by itself: anybody may have named it, so the reader sees where it leads.
    """
    if asked.next_link is None:
        return None
    host = urlsplit(asked.next_link).netloc
    return asked.next_link, visitor.t(f"前往 {host}", f"Go to {host}")


def _not_good(visitor: Visitor) -> web.Response:
    page = visitor.message(
        visitor.t("这个链接不能用了", "This link is not good"),
        visitor.t(
            "它已经用过、已经过期，或者不完整。请在应用里重新发送邮件。",
            "It has been used, has expired, or is not whole. Have the app send another mail.",
        ),
    )
    page.set_status(404)
    return page


def _describe(visitor: Visitor, asked: Verification) -> str:
    if asked.purpose == REGISTER:
        return visitor.t("用这个邮箱注册账号", "create an account with this address")
    if asked.purpose == PASSWORD:
        return visitor.t("为您的账号设置新密码", "set a new password for your account")
    return visitor.t("把这个邮箱加到一个账号", "add this address to an account")
