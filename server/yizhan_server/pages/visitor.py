"""Whoever looks at a page: cookies, the signed-in account, forms that only our pages can send.

A form holds a code made of two cookies: one that every browser gets, and that of the session. A
page of somebody else's can neither read them nor, as they are `SameSite`, send them along.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from yizhan_server.api.form import read_form
from yizhan_server.api.oauth import ACCOUNT_PATH
from yizhan_server.api.routing import Auth, Call, Reply, Routes
from yizhan_server.pages.rendering import choose_language, render, render_error, say
from yizhan_server.protocol.errors import Forbidden

if TYPE_CHECKING:
    from yizhan_server.accounts.browser_sessions import BrowserSession
    from yizhan_server.storage.accounts import Account

_FORM_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
# A page of ours, as a path: no host, nothing that a browser could take for one.
_OWN_PAGE = re.compile(re.escape(ACCOUNT_PATH) + r"/[a-z-]*(?:/[a-z-]+)?(?:\?[!-\[\]-~]*)?")

Handler = Callable[["Visitor"], Awaitable[web.StreamResponse]]


class Visitor:
    """One request for a page."""

    def __init__(self, call: Call[None], session: BrowserSession | None) -> None:
        self.call = call
        self.services = call.services
        self.session = session
        self._secure = call.services.auth_metadata["issuer"].startswith("https:")
        known = call.request.cookies.get(self._cookie_name("form"), "")
        self._is_new = _FORM_SECRET.fullmatch(known) is None
        self._form_secret = secrets.token_urlsafe(32) if self._is_new else known
        self._session_token = "" if session is None else session.token

    def t(self, zh: str, en: str) -> str:
        """Return the sentence in the visitor's language."""
        return say(choose_language(self.call.request), zh, en)

    @property
    def account(self) -> Account:
        """The signed-in account; only on pages that demand one."""
        if self.session is None:
            raise Forbidden("Sign in first")
        return self.session.account

    @property
    def here(self) -> str:
        """The address of this page, to come back to."""
        return self.call.request.rel_url.raw_path_qs

    @property
    def next_page(self) -> str:
        """The page of ours that the visitor goes to next, by the parameter `next`."""
        asked = self.call.query("next") or ""
        return asked if is_own_page(asked) else f"{ACCOUNT_PATH}/"

    # region answers

    def show(
        self,
        template: str,
        *,
        status: int = 200,
        form_actions: tuple[str, ...] = (),
        script: str | None = None,
        **context: Any,
    ) -> web.Response:
        """Render a page."""
        base = {
            "csrf": self._form_code(),
            "user_id": None if self.session is None else self.session.account.user_id,
            "home": f"{ACCOUNT_PATH}/",
            "server_name": self.services.server_name,
        }
        response = render(
            self.call.request, template, base | context,
            status=status, form_actions=form_actions, script=script,
        )  # fmt: skip
        if self._is_new:
            self._set_cookie(response, "form", self._form_secret)
        return response

    def message(self, title: str, text: str, link: tuple[str, str] | None = None) -> web.Response:
        """Render a page with one thing to say."""
        return self.show("message.html", title=title, text=text, link=link, detail=None)

    def go_to(self, location: str) -> web.Response:
        """Send the browser on, by GET."""
        headers = {"Location": location, "Cache-Control": "no-store",
                   "Referrer-Policy": "no-referrer"}  # fmt: skip
        return web.Response(status=303, headers=headers)

    def go_to_page(self, name: str, **query: str) -> web.Response:
        """Send the browser to another page of ours."""
        return self.go_to(f"{ACCOUNT_PATH}/{name}{'?' if query else ''}{urlencode(query)}")

    def go_sign_in(self, *, again: bool = False, register: bool = False) -> web.Response:
        """Have the visitor sign in and come back here."""
        more = {"again": "1"} if again else {}
        return self.go_to_page("register" if register else "login", next=self.here, **more)

    def signed_in(self, token: str, location: str) -> web.Response:
        """Give the browser its session and send it on."""
        response = self.go_to(location)
        self._set_cookie(response, "session", token)
        # A new secret: what an earlier visitor of this browser saw of forms is worth nothing now.
        self._set_cookie(response, "form", secrets.token_urlsafe(32))
        return response

    def signed_out(self, response: web.Response) -> web.Response:
        """Take the session from the browser."""
        self._set_cookie(response, "session", "", max_age=0)
        return response

    # region forms and cookies

    async def form(self) -> dict[str, str]:
        """Return the fields of a form that one of our pages sent, or answer M_FORBIDDEN."""
        fields = await read_form(self.call)
        origin = self.call.request.headers.get("Sec-Fetch-Site", "same-origin")
        given = fields.pop("csrf", "")
        if origin not in ("same-origin", "none") or not hmac.compare_digest(
            given.encode("utf-8", "surrogatepass"), self._form_code().encode()
        ):
            raise Forbidden("The form is out of date; open the page again")
        return fields

    def _form_code(self) -> str:
        key = self._form_secret.encode()
        return hmac.new(key, self._session_token.encode(), hashlib.sha256).hexdigest()

    def read_cookie(self, name: str) -> str | None:
        """Return one of our cookies."""
        return self.call.request.cookies.get(self._cookie_name(name)) or None

    def give_cookie(self, response: web.Response, name: str, value: str, max_age: int) -> None:
        """Set one of our cookies for `max_age` seconds; 0 takes it away."""
        self._set_cookie(response, name, value, max_age=max_age)

    def _set_cookie(
        self, response: web.Response, name: str, value: str, max_age: int | None = None
    ) -> None:
        response.set_cookie(
            self._cookie_name(name), value,
            path="/", httponly=True, samesite="Lax", secure=self._secure, max_age=max_age,
        )  # fmt: skip

    def _cookie_name(self, name: str) -> str:
        return cookie_name(name, secure=self._secure)


def cookie_name(name: str, *, secure: bool) -> str:
    """Return a cookie's full name. `__Host-`: no neighbouring host can plant it."""
    return f"__Host-yizhan-{name}" if secure else f"yizhan-{name}"


def is_own_page(path: str) -> bool:
    """Tell whether `path` leads to one of these pages and nowhere else."""
    parts = urlsplit(path)
    return not parts.scheme and not parts.netloc and _OWN_PAGE.fullmatch(path) is not None


class Pages:
    """Collects pages; each is served to a `Visitor`."""

    def __init__(self, prefix: str = ACCOUNT_PATH) -> None:
        self.routes = Routes(prefix=prefix, on_error=render_error)

    def get(self, path: str, *, limit: str | None = None) -> Callable[[Handler], Handler]:
        """Declare a page."""
        return lambda handler: self._add(
            self.routes.get(path, auth=Auth.NONE, limit=limit), handler
        )

    def post(self, path: str, *, limit: str | None = None) -> Callable[[Handler], Handler]:
        """Declare what a page's form is sent to."""
        options = {"auth": Auth.NONE, "raw_body": True, "limit": limit}
        return lambda handler: self._add(self.routes.post(path, **options), handler)

    def _add(self, register: Callable[..., Any], handler: Handler) -> Handler:
        async def serve(call: Call[None]) -> Reply:
            return Reply(stream=await handler(await _visitor(call)))

        register(serve)
        return handler


async def _visitor(call: Call[None]) -> Visitor:
    secure = call.services.auth_metadata["issuer"].startswith("https:")
    token = call.request.cookies.get(cookie_name("session", secure=secure))
    return Visitor(call, await call.services.browser_sessions.find(token))
