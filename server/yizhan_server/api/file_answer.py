"""Answering with a file: whole, in part, or "you have it already", in bounded memory.

Written by hand because aiohttp's FileResponse derives the entity tag from the file's times,
knows If-Range only with dates, and would serve a neighbouring `.gz`. Blocks are read in threads:
the loop we run on (uvloop) has no sendfile, and none exists over TLS.

Spec: RFC 9110, sections 13 (conditional requests) and 14 (ranges).
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from yizhan_server.api.routing import Reply
from yizhan_server.protocol.errors import NotFound

BLOCK = 1 << 18
"""Bytes of a file in memory at a time."""

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))", re.ASCII)
_TAGS = re.compile(r'(?:W/)?("[^"]*")')

OnDisk = Callable[..., Awaitable[Any]]
"""Runs a blocking function in a thread."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part that was asked for; without `first`, the last `last` bytes."""

    first: int | None
    last: int | None

    def within(self, size: int) -> tuple[int, int] | None:
        """Return (offset, length) in a file of `size` bytes; None when nothing is left of it."""
        if self.first is None:
            length = min(self.last or 0, size)
            return (size - length, length) if length else None
        if self.first >= size:
            return None
        end = size if self.last is None else min(self.last + 1, size)
        return self.first, end - self.first


def parse_range(header: str | None) -> ByteRange | None:
    """Return the one range that is asked for.

    None for no range, several, and what is malformed: the whole file answers all of these.
    """
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return ByteRange(None, int(suffix))
    if last is not None and int(last) < int(first):
        return None
    return ByteRange(int(first), None if last is None else int(last))


def has_tag(if_none_match: str | None, tag: str) -> bool:
    """Whether the client holds the version `tag` (quoted), compared weakly."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in _TAGS.findall(if_none_match)


@dataclass(slots=True)
class OpenFile:
    """A file, the part of it that is to be sent, and the beginning of that."""

    descriptor: int
    size: int
    part: tuple[int, int] | None
    block: bytes

    def close(self) -> None:
        """Close it. Blocks."""
        os.close(self.descriptor)


def open_part(path: Path, wanted: ByteRange | None) -> OpenFile:
    """Open a file and read the beginning of what is wanted of it. Blocks; FileNotFoundError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        part = (0, size) if wanted is None else wanted.within(size)
        block = b"" if part is None else os.pread(descriptor, min(part[1], BLOCK), part[0])
    except BaseException:
        os.close(descriptor)
        raise
    return OpenFile(descriptor, size, part, block)


async def answer_with_file(
    request: web.BaseRequest, path: Path, *, tag: str, headers: Mapping[str, str], on_disk: OnDisk
) -> Reply:
    """Send a file that never changes under its `tag`, or the part that the request asks for."""
    quoted = f'"{tag}"'
    all_headers = {**headers, "ETag": quoted, "Accept-Ranges": "bytes"}
    if has_tag(request.headers.get("If-None-Match"), quoted):
        return Reply(stream=web.Response(status=304, headers=all_headers))
    wanted = parse_range(request.headers.get("Range")) if request.method == "GET" else None
    if_range = request.headers.get("If-Range")
    if if_range is not None and if_range.strip() != quoted:
        wanted = None
    try:
        file: OpenFile = await on_disk(open_part, path, wanted)
    except FileNotFoundError:
        raise NotFound("The file is gone") from None
    try:
        if file.part is None:
            return Reply(
                {"errcode": "M_UNKNOWN", "error": "The file ends before the requested range"},
                416,
                {"Content-Range": f"bytes */{file.size}"},
            )
        offset, length = file.part
        response = web.StreamResponse(status=200 if wanted is None else 206, headers=all_headers)
        response.content_length = length
        if wanted is not None:
            response.headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{file.size}"
        await response.prepare(request)
        if request.method != "HEAD":
            await send_part(response, file, offset, length, on_disk)
        await response.write_eof()
        return Reply(stream=response)
    finally:
        await on_disk(file.close)


async def send_part(
    response: web.StreamResponse, file: OpenFile, offset: int, length: int, on_disk: OnDisk
) -> None:
    """Send `length` bytes of an open file; what breaks off breaks the connection."""
    block = file.block
    while block:
        await response.write(block)
        offset, length = offset + len(block), length - len(block)
        if not length:
            return
        try:
            block = await on_disk(os.pread, file.descriptor, min(length, BLOCK), offset)
        except Exception as error:
            # The length has been announced: only a broken connection tells the client.
            raise ConnectionResetError("the file cannot be read") from error
    if length:
        raise ConnectionResetError("the file is shorter than it was")
