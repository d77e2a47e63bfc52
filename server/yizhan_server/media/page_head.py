"""What the head of an HTML page says about it: title, description, picture.

The page is anybody's: it is read no further than its head, as text, and nothing of it is run.

Spec: client-server API, GET /media/preview_url; the OpenGraph protocol.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from html.parser import HTMLParser
from typing import Final

from typing_extensions import override

MAX_TEXT: Final = 1000
"""Characters kept of a title or description."""

_SPACES = re.compile(r"\s+")
_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}charset\s{0,5}=\s{0,5}["']?([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE
)
_HEADER_CHARSET = re.compile(r"""charset\s*=\s*"?([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
_KEPT = frozenset(
    (
        "og:title", "og:description", "og:site_name", "og:type", "og:url", "og:image",
        "og:image:alt",
    )
)  # fmt: skip
_STANDING_IN = {"description": "og:description", "twitter:title": "og:title"}
_STANDING_IN |= {"twitter:description": "og:description", "twitter:image": "og:image"}
_STANDING_IN |= {"og:image:url": "og:image", "og:image:secure_url": "og:image"}


def decode_page(body: bytes, content_type: str) -> str:
    """Return a page as text, by what its header, its mark or its own head says of it."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16")):
        if body.startswith(mark):
            return body.decode(name, "replace")
    declared = _HEADER_CHARSET.search(content_type)
    within = _CHARSET.search(body[:4096])
    name = declared[1] if declared else within[1].decode("ascii") if within else "utf-8"
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        codec = "utf-8"
    if codec in ("gb2312", "gbk"):
        codec = "gb18030"  # pages that say so use what came later, too
    if codec in _NOT_TEXT:
        codec = "utf-8"
    return body.decode(codec, "replace")


_NOT_TEXT = frozenset(
    ("base64", "bz2", "hex", "quopri", "rot13", "uu", "zlib", "idna", "punycode", "unicode-escape",
     "raw-unicode-escape", "undefined", "mbcs", "oem")
)  # fmt: skip


def read_head(page: str) -> dict[str, str]:
    """Return the OpenGraph properties of a page; its title and description stand in for them."""
    parser = _Head()
    # Not closed: what never ends would be gone through anew from each of its characters. And what
    # the parser cannot make sense of ends the head, too.
    with suppress(_EndOfHead, AssertionError):
        parser.feed(page)
    found = {**parser.standing_in, **parser.properties}
    title = _text("".join(parser.title))
    if title:
        found.setdefault("og:title", title)
    return found


class _EndOfHead(Exception):
    """Everything that matters has been read."""


class _Head(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.properties: dict[str, str] = {}
        self.standing_in: dict[str, str] = {}
        self.title: list[str] = []
        self._title_length = 0
        self._in_title = False
        self._titled = False

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            raise _EndOfHead
        if tag == "title":
            self._in_title = not self._titled
        elif tag == "meta":
            given = dict(attrs)
            name = (given.get("property") or given.get("name") or "").lower()
            text = _text(given.get("content") or "")
            if text and name in _KEPT:
                self.properties.setdefault(name, text)
            elif text and name in _STANDING_IN:
                self.standing_in.setdefault(_STANDING_IN[name], text)

    @override
    def handle_endtag(self, tag: str) -> None:
        if tag == "head":
            raise _EndOfHead
        if tag == "title":
            self._in_title, self._titled = False, True

    @override
    def handle_data(self, data: str) -> None:
        if self._in_title and self._title_length < MAX_TEXT:
            self.title.append(data)
            self._title_length += len(data)


def _text(text: str) -> str:
    """Return a text on one line, bounded and without characters that no client may show."""
    clean = "".join(c for c in text[: 4 * MAX_TEXT] if c.isprintable() or c.isspace())
    return _SPACES.sub(" ", clean).strip()[:MAX_TEXT]
