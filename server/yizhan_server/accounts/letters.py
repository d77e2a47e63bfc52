"""What the mails say that this server sends: plain text, Chinese and English in the same mail.

For whom a mail is, nobody knows yet, and so neither which language they read.
"""

from __future__ import annotations

from dataclasses import dataclass

Purpose = str
"""What a verified address is good for: `REGISTER`, `ADD` or `PASSWORD`."""
REGISTER = "register"
ADD = "add"
PASSWORD = "password"  # noqa: S105 - the name of a purpose

_LINES = {
    REGISTER: (
        "有人要用这个邮箱在 {server} 注册账号。",
        "Somebody wants to create an account on {server} with this address.",
    ),
    ADD: (
        "有人要把这个邮箱加到 {server} 上的账号。",
        "Somebody wants to add this address to an account on {server}.",
    ),
    PASSWORD: (
        "有人要为您在 {server} 的账号 {user} 设置新密码。",
        "Somebody wants to set a new password for your account {user} on {server}.",
    ),
}
_IN_USE_ZH = (
    "有人要在 {server} 使用这个邮箱，但它已经属于那里的一个账号，所以什么也没有改变。"
    "如果是您自己，请用那个账号登录，或在应用里选择“忘记密码”。"
)
_IN_USE_EN = (
    "Somebody wanted to use this address on {server}, but it belongs to an account there, so "
    "nothing has changed. If it was you, sign in to that account, or choose “forgot password” in "
    "your app."
)
_NO_ACCOUNT_ZH = (
    "有人要用这个邮箱在 {server} 重设密码，但那里没有可以用它重设密码的账号，"
    "所以什么也没有改变。如果是您自己，请试试别的邮箱，或联系管理员。"
)
_NO_ACCOUNT_EN = (
    "Somebody wanted to reset a password on {server} with this address, but there is no account "
    "there whose password can be reset by it, so nothing has changed. If it was you, try another "
    "address, or ask the administrator."
)
_LINK_ZH = "如果是您自己刚刚在应用里发起的，请在 {minutes} 分钟内打开链接并确认："
_LINK_EN = (
    "If you just started this in your app yourself, open the link within {minutes} minutes and "
    "confirm:"
)
_NOT_YOU_ZH = "如果不是您自己，不必理会这封邮件，也不要打开链接。"
_NOT_YOU_EN = "If it was not you, ignore this mail, and do not open the link."


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail without its address."""

    subject: str
    text: str


def letter_with_link(
    purpose: Purpose, link: str, *, server: str, user: str, minutes: int
) -> Letter:
    """Return the mail that asks the owner of an address to agree."""
    zh, en = (line.format(server=server, user=user) for line in _LINES[purpose])
    text = f"""{zh}
{_LINK_ZH.format(minutes=minutes)}

{en}
{_LINK_EN.format(minutes=minutes)}

{link}

{_NOT_YOU_ZH}
{_NOT_YOU_EN}
"""
    return Letter(f"{server}：确认邮箱 / Confirm your e-mail address", text)


def letter_without_link(purpose: Purpose, *, server: str) -> Letter:
    """Return the mail that tells the owner of an address why nothing can be done with it."""
    zh, en = (_NO_ACCOUNT_ZH, _NO_ACCOUNT_EN) if purpose == PASSWORD else (_IN_USE_ZH, _IN_USE_EN)
    text = f"{zh.format(server=server)}\n\n{en.format(server=server)}\n"
    return Letter(f"{server}：关于这个邮箱 / About this e-mail address", text)
