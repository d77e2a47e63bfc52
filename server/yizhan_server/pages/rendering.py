"""How a page becomes an answer: template, language, and headers that forbid everything else.

A content security policy admits the one style sheet by its digest and nothing more: no script (but
the one that tells an app of a confirmation or a sign-in, by its digest as well),
no picture, no frame around us, and forms only to ourselves, save that the answer to a client's
request may lead on to that client (browsers count redirects after a form as the form's).
"""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from yizhan_server.api.routing import Reply

if TYPE_CHECKING:
    from yizhan_server.protocol.errors import MatrixError

Language = Literal["zh", "en"]

LANGUAGE_COOKIE = "yizhan_language"
_FOLDER = Path(__file__).parent / "templates"
_STYLE = (_FOLDER / "style.css").read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_STYLE_DIGEST = _digest(_STYLE)
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def choose_language(request: web.BaseRequest) -> Language:
    """Return the language that the URL, the browser's last choice or its settings ask for."""
    for asked in (
        request.query.get("lang", ""),
        request.query.get("ui_locales", ""),
        request.cookies.get(LANGUAGE_COOKIE, ""),
        request.headers.get("Accept-Language", ""),
    ):
        for part in asked.replace(" ", ",").split(","):
            if part.lower().startswith("zh"):
                return "zh"
            if part.lower().startswith("en"):
                return "en"
    return "zh"


def say(language: Language, zh: str, en: str) -> str:
    """Return the sentence in the language."""
    return zh if language == "zh" else en


def render(
    request: web.BaseRequest,
    template: str,
    context: dict[str, Any],
    *,
    status: int = 200,
    form_actions: tuple[str, ...] = (),
    script: str | None = None,
) -> web.Response:
    """Return a page; `form_actions` are what a form may lead to beside ourselves.

    `script` is the one that the page may run, word for word.
    """
    language = choose_language(request)
    other = "en" if language == "zh" else "zh"
    query = request.rel_url.update_query(lang=other)
    text = _ENVIRONMENT.get_template(template).render(
        **context,
        script=None if script is None else Markup(script),  # noqa: S704 - ours
        t=partial(say, language),
        language="zh-CN" if language == "zh" else "en",
        other_language=query.raw_path_qs if request.method == "GET" else None,
        style=Markup(_STYLE),  # noqa: S704 - a file of ours
    )
    policy = [
        "default-src 'none'",
        f"style-src 'sha256-{_STYLE_DIGEST}'",
        *([] if script is None else [f"script-src 'sha256-{_digest(script)}'"]),
        " ".join(("form-action 'self'", *form_actions)),
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
    response = web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={
            "Content-Security-Policy": "; ".join(policy),
            "X-Frame-Options": "DENY",
            "X-Content-Type-Options": "nosniff",
            # Addresses of these pages hold what clients asked for.
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Content-Language": "zh-CN" if language == "zh" else "en",
        },
    )
    if request.query.get("lang") in ("zh", "en"):
        response.set_cookie(
            LANGUAGE_COOKIE, language, path="/", httponly=True, samesite="Lax", max_age=31_536_000
        )
    return response


def render_message(
    request: web.BaseRequest,
    title: str,
    text: str,
    *,
    status: int = 200,
    link: tuple[str, str] | None = None,
    detail: str | None = None,
) -> web.Response:
    """Return a page with one thing to say, and perhaps a link (address, words) onwards."""
    context = {"title": title, "text": text, "link": link, "detail": detail}
    return render(request, "message.html", context, status=status)


def render_error(request: web.BaseRequest, error: MatrixError) -> Reply:
    """Return the page that tells a person what went wrong."""
    t = partial(say, choose_language(request))
    match error.errcode:
        case "M_LIMIT_EXCEEDED":
            text = t(
                "尝试过于频繁，请过几分钟再试。", "Too many attempts. Try again in a few minutes."
            )
        case "M_USER_LOCKED":
            text = t(
                "这个账号已被锁定，请联系管理员。",
                "This account is locked. Ask your administrator.",
            )
        case "M_USER_DEACTIVATED":
            text = t("这个账号已经停用。", "This account has been deactivated.")
        case "M_NOT_FOUND":
            text = t("没有找到。", "There is no such thing.")
        case _:
            text = t(
                "这个请求无法处理。请回到应用重新开始。",
                "This request cannot be handled. Go back to the app and start again.",
            )
    title = t("出了问题", "Something went wrong")
    page = render_message(request, title, text, status=error.status, detail=error.message)
    retry_after_ms = error.fields.get("retry_after_ms")
    if isinstance(retry_after_ms, int):
        page.headers["Retry-After"] = str(-(-retry_after_ms // 1000))
    return Reply(stream=page)
