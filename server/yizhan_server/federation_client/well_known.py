"""`/.well-known/matrix/server`: to whom a domain delegates its Matrix server.

What it answers is kept as long as its headers say, within bounds. A failure is kept too, at first
for minutes and then for an hour, and never makes us forget a delegation of the last two days:
otherwise a web server that is down would take its domain's federation with it.

Spec: server-server API, "Resolving server names", step 3; "/.well-known/matrix/server".
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from yizhan_config.outbound import OutboundSession, ResponseTooLarge, read_bounded
from yizhan_server.clock import Clock
from yizhan_server.federation_client.places import Place
from yizhan_server.protocol.canonical_json import parse_json
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import InvalidIdentifier

log = logging.getLogger(__name__)

HTTPS_PORT = 443
TIMEOUT_SECONDS = 10.0
"""Redirects included."""
MAX_BYTES = 50 * 1024
MAX_REDIRECTS = 5
DEFAULT_LIFETIME_S, SHORTEST_S, LONGEST_S = 24 * 3600, 60, 48 * 3600
FIRST_FAILURE_S, LONGEST_FAILURE_S = 300, 3600
MAX_REMEMBERED = 10_000

_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class NoDelegation(Exception):
    """There is no delegation to be had here."""

    def __init__(self, why: str, *, is_absent: bool = False) -> None:
        super().__init__(why)
        self.is_absent = is_absent
        """Whether the domain simply has no such file."""


@dataclass(slots=True)
class _Known:
    delegate: Place | None = None
    fetched_ms: int = 0
    again_ms: int = 0
    failures: int = 0
    failure: Exception | None = None


class WellKnown:
    """Asks domains for their delegation, and remembers what they said."""

    def __init__(self, clock: Clock, *, port: int = HTTPS_PORT) -> None:
        self._clock = clock
        self._port = port
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def find(self, host: str, session: OutboundSession) -> Place | None:
        """Return to whom `host` delegates; None if it does not, or cannot be asked."""
        known = self._remember(host)
        if self._clock.now_ms() >= known.again_ms:
            await self._refresh(host, known, session)
        return known.delegate

    def again_ms(self, host: str) -> int:
        """Return until when the last answer about `host` holds."""
        known = self._known.get(host)
        return 0 if known is None else known.again_ms

    def failure(self, host: str) -> Exception | None:
        """Return why the last attempt to ask `host` gave nothing; None if it was not asked."""
        known = self._known.get(host)
        return None if known is None else known.failure

    def expire(self, host: str) -> None:
        """Have `host` asked again the next time; what it said before stays as the second choice."""
        if (known := self._known.get(host)) is not None:
            known.again_ms = 0

    def _remember(self, host: str) -> _Known:
        known = self._known.setdefault(host, _Known())
        self._known.move_to_end(host)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return known

    async def _refresh(self, host: str, known: _Known, session: OutboundSession) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                delegate, lifetime_s = await self._fetch(host, session)
        except (NoDelegation, ValueError, OSError, TimeoutError, aiohttp.ClientError) as error:
            log.debug("no delegation", extra={"host": host, "error": type(error).__name__})
            now_ms = self._clock.now_ms()
            lifetime_s = min(FIRST_FAILURE_S << min(known.failures, 10), LONGEST_FAILURE_S)
            known.failures += 1
            known.failure = error
            if now_ms >= known.fetched_ms + LONGEST_S * 1000:
                known.delegate = None
        else:
            now_ms = self._clock.now_ms()
            known.delegate, known.fetched_ms, known.failures = delegate, now_ms, 0
            known.failure = None
        known.again_ms = now_ms + lifetime_s * 1000

    async def _fetch(self, host: str, session: OutboundSession) -> tuple[Place, int]:
        url = URL.build(
            scheme="https", host=host, port=self._port, path="/.well-known/matrix/server"
        )
        for _ in range(MAX_REDIRECTS + 1):
            async with session.request("GET", url) as response:
                if response.status in _REDIRECTS:
                    url = _next_hop(url, response.headers.get("Location", ""))
                    continue
                if response.status != 200:
                    raise NoDelegation(
                        f"status {response.status}", is_absent=response.status in (404, 410)
                    )
                try:
                    body = await read_bounded(response, MAX_BYTES)
                except ResponseTooLarge:
                    raise NoDelegation("too large") from None
                return _parse(body), self._lifetime_s(response.headers)
        raise NoDelegation("too many redirects")

    def _lifetime_s(self, headers: Mapping[str, str]) -> int:
        stated = _max_age_s(headers.get("Cache-Control", ""))
        if stated is None and (expires := headers.get("Expires")) is not None:
            stated = _seconds_until(expires, self._clock.now_ms())
        lifetime_s = DEFAULT_LIFETIME_S if stated is None else stated
        return min(max(lifetime_s, SHORTEST_S), LONGEST_S)


def _next_hop(url: URL, location: str) -> URL:
    try:
        hop = url.join(URL(location))
    except (ValueError, IndexError):
        raise NoDelegation("a redirect to nowhere") from None
    # Over plain HTTP, whoever is on the way could name another server.
    if hop.scheme != "https" or not location:
        raise NoDelegation("a redirect away from https")
    return hop


def _parse(body: bytes) -> Place:
    try:
        answer = parse_json(body)
        text = answer.get("m.server") if isinstance(answer, dict) else None
        return Place.parse(text if isinstance(text, str) else "")
    except (MatrixError, InvalidIdentifier):
        raise NoDelegation("no m.server") from None


def _max_age_s(cache_control: str) -> int | None:
    directives = dict(part.strip().lower().partition("=")[::2] for part in cache_control.split(","))
    if "no-store" in directives or "no-cache" in directives:
        return 0
    age = directives.get("max-age", "").strip('"')
    return min(int(age), LONGEST_S) if age.isascii() and age.isdecimal() and len(age) < 12 else None


def _seconds_until(expires: str, now_ms: int) -> int:
    try:
        return max(int(parsedate_to_datetime(expires).timestamp()) - now_ms // 1000, 0)
    except (ValueError, OverflowError):
        return 0  # "0" and its like mean: expired (RFC 9111, 5.3)
