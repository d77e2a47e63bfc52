"""`multipart/mixed` as servers send files to each other: a part of JSON, then the file.

Read piece by piece, since the file may be large, and strictly: an answer that ends before its last
boundary is not a file.

Spec: server-server API, "Content Repository"; RFC 2046, section 5.1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.message import Message

MAX_HEADER_BYTES = 16 * 1024
MAX_JSON_BYTES = 64 * 1024


class MalformedMultipart(Exception):
    """The bytes are not two parts between boundaries."""


def find_boundary(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names. Raises MalformedMultipart."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/mixed" or not boundary or len(boundary) > 70:
        raise MalformedMultipart("not multipart/mixed with a boundary")
    try:
        return boundary.encode("ascii")
    except UnicodeEncodeError:
        raise MalformedMultipart("a boundary is ASCII") from None


class TwoParts:
    """Reads the parts one after the other, each once and in this order."""

    def __init__(self, boundary: bytes, pieces: AsyncIterator[bytes]) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._pieces = pieces
        # The first boundary needs no line before it.
        self._buffer = bytearray(b"\r\n")

    async def read_json(self) -> bytes:
        """Return the first part."""
        await self._until(self._delimiter, MAX_JSON_BYTES)
        await self._headers()
        return await self._until(self._delimiter, MAX_JSON_BYTES)

    async def read_file_headers(self) -> dict[str, str]:
        """Return the headers of the second part, their names in lower case."""
        return await self._headers()

    async def read_file(self) -> AsyncIterator[bytes]:
        """Yield the second part."""
        while (end := self._buffer.find(self._delimiter)) < 0:
            # What may be the beginning of the delimiter waits for the rest of it.
            ready = len(self._buffer) - len(self._delimiter) + 1
            if ready > 0:
                yield self._take(ready)
            await self._more()
        if end > 0:
            yield self._take(end)
        del self._buffer[: len(self._delimiter)]
        while len(self._buffer) < 2:
            await self._more()
        if self._buffer[:2] != b"--":
            raise MalformedMultipart("more than two parts")

    async def _headers(self) -> dict[str, str]:
        block = await self._until(b"\r\n\r\n", MAX_HEADER_BYTES)
        padding, *lines = block.split(b"\r\n")
        if padding.strip(b" \t"):
            raise MalformedMultipart("fewer than two parts")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name.strip():
                raise MalformedMultipart("not a header")
            headers[name.decode("latin-1").strip().lower()] = value.decode(
                "utf-8", "replace"
            ).strip()
        return headers

    async def _until(self, mark: bytes, limit: int) -> bytes:
        """Take what comes before `mark`, and drop that."""
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > limit:
                raise MalformedMultipart("a part is too large")
            await self._more()
        taken = self._take(end)
        del self._buffer[: len(mark)]
        return taken

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _more(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            raise MalformedMultipart("it ends too early")
        self._buffer += piece
