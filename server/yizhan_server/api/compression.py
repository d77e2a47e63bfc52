"""Compressing answers for clients that can read it: on slow lines, this decides how long they wait.

Only gzip: it is in the standard library, everybody who accepts any coding accepts it, and programs
differ in what they call "deflate".

Whoever can add text of their own to an answer and watch its length can guess what else is in it,
if they may try often enough (CRIME, BREACH). So nothing that holds a credential is compressed
(`Route.may_compress`), and the length that can be watched is blurred: the gzip header has a place
for a file name, which readers skip, and that is given a random length. docs/threat-model.md says
what remains.

Spec: RFC 9110, sections 8.4.1.3 (gzip) and 12.5.3 (Accept-Encoding); RFC 1952.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import struct
import zlib
from functools import lru_cache

from aiohttp import web

MIN_BYTES = 1024
"""Smaller answers fit into a packet or nearly so."""

INLINE_BYTES = 1 << 15
"""Larger answers are compressed in a thread; these take less time than handing them over."""

LEVEL = 6
"""10 ms a megabyte of /sync; 9 takes twice as long for a hundredth less, 1 saves half for a tenth
more."""

BLUR_BYTES = 100

_HEADER = b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xff"
"""gzip, deflated, with a file name, at no time, by nobody in particular."""

_CODING = re.compile(r"([\w!#$%&'*+.^`|~-]+)(?:\s*;\s*q\s*=\s*([01](?:\.\d{0,3})?))?", re.ASCII)


@lru_cache(maxsize=64)
def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client prefers gzip to nothing, or likes both."""
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        match = _CODING.fullmatch(part.strip())
        if match is not None:
            weights[match[1]] = float(match[2] or 1)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def gzipped(body: bytes) -> bytes:
    """Return `body` in gzip format, of a length that does not quite tell what is in it."""
    name = b"x" * secrets.randbelow(BLUR_BYTES)
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(
        (
            _HEADER, name, b"\0", packer.compress(body), packer.flush(),
            struct.pack("<LL", zlib.crc32(body), len(body) & 0xFFFFFFFF),
        )
    )  # fmt: skip


async def encoded(
    request: web.BaseRequest, body: bytes, headers: dict[str, str]
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer in the coding that the request asks for."""
    if len(body) < MIN_BYTES or "ETag" in headers:
        return body, headers
    # What has an entity tag is named by its bytes, and stays as it is.
    headers = {**headers, "Vary": "Accept-Encoding"}
    accepted = request.headers.get("Accept-Encoding")
    if accepted is None or not accepts_gzip(accepted):
        return body, headers
    if len(body) <= INLINE_BYTES:
        body = gzipped(body)
    else:
        body = await asyncio.to_thread(gzipped, body)
    return body, {**headers, "Content-Encoding": "gzip"}
