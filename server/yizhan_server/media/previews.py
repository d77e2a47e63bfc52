"""Previews of the pages that messages link to.

The address is anybody's choice. It is fetched through the outbound session, which reaches public
addresses only; every redirect is checked like the first address; size, time and number of fetches
are bounded; what is read is a head of a page and one picture, which is checked to be one.

Spec: client-server API, GET /media/preview_url.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakValueDictionary

import aiohttp
import orjson
from PIL import Image
from yarl import URL

from yizhan_config.outbound import OutboundRefused, OutboundSession, ResponseTooLarge, read_bounded
from yizhan_config.settings import UrlPreviews as PreviewSettings
from yizhan_database import Database, Transaction
from yizhan_server.clock import Clock
from yizhan_server.media.page_head import decode_page, read_head
from yizhan_server.media.repository import ContentRepository
from yizhan_server.protocol.errors import Forbidden, InvalidParam, Unrecognized
from yizhan_server.storage import media as stored_media
from yizhan_server.storage import url_previews as storage
from yizhan_server.storage.url_previews import CachedPreview

log = logging.getLogger(__name__)

MAX_URL = 2048
MAX_REDIRECTS = 3
MAX_FETCHES = 8
"""Pages fetched at the same time."""
TIMEOUT_S = 15.0
HEAD_BYTES = 1 << 19
"""Of a page, read at most."""
FAILED_LIFETIME_MS = 10 * 60 * 1000
TIDY_EVERY_S = 3600
BATCH = 100

REDIRECTS = frozenset((301, 302, 303, 307, 308))
PICTURES = {
    "JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Fetched:
    url: URL
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Picture:
    body: bytes
    content_type: str
    width: int
    height: int


class _Unusable(Exception):
    """There is nothing to show at this address."""


class UrlPreviews:
    """Fetches previews and keeps them for a while."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        media: ContentRepository,
        outbound: OutboundSession,
        settings: PreviewSettings,
    ) -> None:
        self._db = db
        self._clock = clock
        self._media = media
        self._outbound = outbound
        self._settings = settings
        self._fetching = asyncio.Semaphore(MAX_FETCHES)
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def get(self, url: str) -> bytes:
        """Return the OpenGraph data of a page as JSON, {} if it has none.

        M_UNRECOGNIZED while previews are switched off, M_FORBIDDEN for addresses that are not
        to be fetched.
        """
        if not self._settings.enabled:
            raise Unrecognized("This server makes no previews")
        target = self._check(url)
        digest = hashlib.sha256(str(target).encode()).digest()
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            cached = await storage.find_preview(self._db, digest)
            now_ms = self._clock.now_ms()
            if cached is not None and cached.expires_ms > now_ms:
                return cached.answer
            async with self._fetching:
                answer, media_id = await self._preview(target)
            lifetime_ms = self._settings.lifetime_hours * 3_600_000
            if not answer:
                lifetime_ms = min(lifetime_ms, FAILED_LIFETIME_MS)
            body = orjson.dumps(answer)
            tx = Transaction()
            if cached is not None and cached.media_id is not None:
                stored_media.release_media(tx, cached.media_id)
            storage.replace_preview(tx, CachedPreview(digest, body, media_id, now_ms + lifetime_ms))
            await self._db.commit(tx)
            return body

    async def run(self) -> None:
        """Forget expired previews every hour; in the background."""
        while True:
            await self.tidy()
            await asyncio.sleep(TIDY_EVERY_S)

    async def tidy(self) -> None:
        """Forget previews that have expired, and their pictures."""
        while expired := await storage.expired_previews(self._db, self._clock.now_ms(), BATCH):
            tx = Transaction()
            for preview in expired:
                storage.delete_preview(tx, preview.url)
                if preview.media_id is not None:
                    stored_media.release_media(tx, preview.media_id)
            await self._db.commit(tx)

    def _check(self, url: str) -> URL:
        """Return an address that may be fetched."""
        if len(url) > MAX_URL:
            raise InvalidParam(f"'url' is longer than {MAX_URL} characters")
        try:
            target = self._outbound.check_url(URL(url).with_fragment(None))
        except (ValueError, OutboundRefused) as refused:
            raise Forbidden(f"This address is not fetched: {refused}") from None
        if not self._is_listed(target):
            raise Forbidden("This address is not fetched: the administrator has excluded it")
        return target

    def _is_listed(self, target: URL) -> bool:
        host = (target.host or "").lower().rstrip(".")
        if _matches(host, self._settings.deny):
            return False
        return not self._settings.allow or _matches(host, self._settings.allow)

    async def _preview(self, target: URL) -> tuple[dict[str, Any], str | None]:
        """Fetch a page and its picture; whatever fails on the way is left out."""
        try:
            page = await self._fetch(target, HEAD_BYTES, whole=False)
        except _Unusable as why:
            log.info("no preview", extra={"host": target.host, "why": str(why)})
            return {}, None
        kind = page.content_type.partition(";")[0].strip().lower()
        if kind.startswith("image/"):
            picture_url: URL | None = page.url
            answer = {"og:url": str(page.url)}
        elif kind in ("text/html", "application/xhtml+xml"):
            # Parsing is plain Python: half a megabyte of it would stop the loop for a while.
            answer = await asyncio.to_thread(_read_page, page)
            picture_url = _joined(page.url, answer.pop("og:image", None))
        else:
            return {}, None
        return await self._with_picture(dict(answer), picture_url)

    async def _with_picture(
        self, answer: dict[str, Any], url: URL | None
    ) -> tuple[dict[str, Any], str | None]:
        if url is None:
            return answer, None
        try:
            fetched = await self._fetch(url, self._settings.max_image_bytes, whole=True)
            picture = await asyncio.to_thread(_look_at, fetched.body)
        except _Unusable as why:
            log.info("no picture", extra={"host": url.host, "why": str(why)})
            return answer, None

        async def body() -> AsyncIterator[bytes]:
            yield picture.body

        uri = await self._media.upload(
            "", body(), content_type=picture.content_type, file_name=None
        )
        answer |= {
            "og:image": uri,
            "og:image:type": picture.content_type,
            "og:image:width": picture.width,
            "og:image:height": picture.height,
            "matrix:image:size": len(picture.body),
        }
        return answer, uri.rpartition("/")[2]

    async def _fetch(self, url: URL, most: int, *, whole: bool) -> _Fetched:
        """Fetch an address, following redirects by hand: each is an address of somebody's choice.

        With `whole`, a longer body is refused; else it is cut.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for _ in range(MAX_REDIRECTS + 1):
                    async with self._request(url) as response:
                        if response.status in REDIRECTS:
                            url = self._next(url, response.headers.get("Location"))
                            continue
                        if response.status != 200:
                            raise _Unusable(f"status {response.status}")
                        if response.headers.get("Content-Encoding", "identity") != "identity":
                            raise _Unusable("compressed though nobody asked for that")
                        if whole:
                            body = await read_bounded(response, most)
                        else:
                            body = await _read_beginning(response, most)
                        content_type = response.headers.get("Content-Type", "")
                        return _Fetched(url, content_type, body)
                raise _Unusable("too many redirects")
        except ResponseTooLarge:
            raise _Unusable("too large") from None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _Unusable(type(error).__name__) from None

    @asynccontextmanager
    async def _request(self, url: URL) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._outbound.request(
                "GET", url, timeout_seconds=TIMEOUT_S,
                headers={"Accept": "text/html, application/xhtml+xml, image/*;q=0.8"},
            ) as response:  # fmt: skip
                yield response
        except OutboundRefused as refused:
            raise _Unusable(str(refused)) from None

    def _next(self, url: URL, location: str | None) -> URL:
        target = _joined(url, location)
        if target is None or len(str(target)) > MAX_URL:
            raise _Unusable("a redirect to nowhere")
        if not self._is_listed(target):
            raise _Unusable("a redirect to an excluded address")
        return target


def _read_page(page: _Fetched) -> dict[str, str]:
    return read_head(decode_page(page.body, page.content_type))


def _look_at(body: bytes) -> _Picture:
    """Check that a body is a picture of a kind that clients show; its header is enough."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(body), formats=tuple(PICTURES)) as image:
                content_type = PICTURES[image.format or ""]
                return _Picture(body, content_type, *image.size)
    except Exception:  # noqa: BLE001 - a stranger's file fails in many ways
        raise _Unusable("not a picture") from None


async def _read_beginning(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) >= most:
            response.close()
            break
    return bytes(body[:most])


def _joined(base: URL, reference: str | None) -> URL | None:
    if not reference:
        return None
    try:
        return base.join(URL(reference)).with_fragment(None)
    except ValueError:
        return None


def _matches(host: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(host, pattern.lower()) for pattern in patterns)
