"""A browser as the account pages meet one: cookies, links, forms, redirects; no JavaScript.

It follows redirects within the server only. One that leads elsewhere ends the walk, and
`Page.location` says where it would have gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import aiohttp
from typing_extensions import override
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Form:
    """One form of a page: where it goes, and its fields with what they hold."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self._skips = False

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if tag == "form":
            self.forms.append(Form(given["action"]))
        elif tag == "a":
            self.links.append(given["href"])
        elif tag == "input" and given.get("type") != "checkbox":
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "button" and "name" in given:
            self.forms[-1].buttons.append((given["name"], given["value"]))
        self._skips = tag == "style"

    @override
    def handle_data(self, data: str) -> None:
        if not self._skips:
            self.text.append(data)


@dataclass
class Page:
    """Where a walk ended."""

    url: URL
    status: int
    headers: Mapping[str, str]
    source: str

    def __post_init__(self) -> None:
        reader = _Reader()
        reader.feed(self.source)
        self.forms, self.links, self.tags = reader.forms, reader.links, reader.tags
        self.text = " ".join(" ".join(reader.text).split())

    @property
    def location(self) -> str | None:
        """The place outside the server that the browser is sent to."""
        return self.headers.get("Location")

    def form(self, action: str) -> Form:
        """Return the form whose action's path ends so."""
        return next(each for each in self.forms if urlsplit(each.action).path.endswith(action))


class Browser:
    """One browser profile."""

    def __init__(self, base_url: str, language: str = "en") -> None:
        self._base = URL(base_url)
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True), headers={"Accept-Language": language}
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name."""
        return {cookie.key: cookie.value for cookie in self._http.cookie_jar}

    async def opens(self, url: str) -> Page:
        """Go to an address: a path, or a URL of the server under whatever host it gives itself."""
        parts = urlsplit(url)
        relative = parts._replace(scheme="", netloc="").geturl()
        return await self._walk("GET", relative, None)

    async def sends(self, form: Form, *, press: str | None = None, **fields: str) -> Page:
        """Fill a form in and send it; `press` is the value of the button."""
        filled = {**form.fields, **fields}
        if press is not None:
            [name] = {name for name, value in form.buttons if value == press}
            filled[name] = press
        return await self._walk("POST", form.action, filled)

    async def posts(
        self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None
    ) -> Page:
        """Send fields as any page of anybody's could make a browser do."""
        return await self._walk("POST", path, fields, headers)

    async def signs_in(self, page: Page, name: str, password: str) -> Page:
        """Fill the sign-in page in."""
        return await self.sends(page.form("/login"), name=name, password=password)

    async def _walk(
        self,
        method: str,
        path: str,
        fields: dict[str, str] | None,
        headers: dict[str, str] | None = None,
    ) -> Page:
        url = self._base.join(URL(path, encoded=True))
        for _ in range(10):
            async with self._http.request(
                method, url, data=fields, headers=headers, allow_redirects=False
            ) as response:
                page = Page(url, response.status, response.headers, await response.text())
            location = page.location
            if location is None or not (location.startswith("/") and location[1:2] != "/"):
                return page
            assert page.status in (302, 303), page.status
            method, fields, url = "GET", None, self._base.join(URL(location, encoded=True))
        raise AssertionError("redirected in a circle")
