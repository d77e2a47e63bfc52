"""Fetching files from the server that has them.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import aiohttp
from yarl import URL

from yizhan_server.federation_client.answers import parse_object
from yizhan_server.federation_client.errors import RemoteMisbehaved, RemoteRefused
from yizhan_server.federation_client.multipart import MalformedMultipart, TwoParts, find_boundary
from yizhan_server.federation_client.requests import Query, Question, Requests, path_of
from yizhan_server.protocol.identifiers import ServerName

MAX_REDIRECTS = 3
_V1 = "/_matrix/federation/v1/media"
_DEPRECATED = "/_matrix/media/v3"
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class RemoteTooLarge(RemoteMisbehaved):
    """The file is larger than we want."""

    def __init__(self, server: ServerName) -> None:
        super().__init__(server, "the file is too large")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on its way. What its server says of it is for `Content-Type` and the like to judge."""

    content_type: str | None
    content_disposition: str | None
    pieces: AsyncIterator[bytes]
    """Raises RemoteTooLarge after the limit, RemoteMisbehaved if it is cut off."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What thumbnail is wanted, in pixels."""

    width: int
    height: int
    method: Literal["crop", "scale"]
    animated: bool | None = None


class MediaRequests:
    """One method for each endpoint; all raise the four kinds of RemoteFailure."""

    def __init__(self, requests: Requests, timeout_seconds: float) -> None:
        self._requests = requests
        self._timeout_seconds = timeout_seconds

    @asynccontextmanager
    async def download(
        self, server: ServerName, media_id: str, *, max_bytes: int, wait_ms: int = 20_000
    ) -> AsyncIterator[RemoteFile]:
        """Fetch the file `mxc://server/media_id`, to be read within the block.

        `wait_ms` is how long the server may wait for a file that is still being uploaded.
        """
        query = [("timeout_ms", str(wait_ms))]
        async with self._either(server, "download", media_id, query, max_bytes) as file:
            yield file

    @asynccontextmanager
    async def thumbnail(
        self,
        server: ServerName,
        media_id: str,
        scale: Scale,
        *,
        max_bytes: int,
        wait_ms: int = 20_000,
    ) -> AsyncIterator[RemoteFile]:
        """Fetch a thumbnail of the file, to be read within the block."""
        query = [
            ("width", str(scale.width)),
            ("height", str(scale.height)),
            ("method", scale.method),
            ("timeout_ms", str(wait_ms)),
        ]
        if scale.animated is not None:
            query.append(("animated", "true" if scale.animated else "false"))
        async with self._either(server, "thumbnail", media_id, query, max_bytes) as file:
            yield file

    @asynccontextmanager
    async def _either(
        self, server: ServerName, endpoint: str, media_id: str, query: Query, max_bytes: int
    ) -> AsyncIterator[RemoteFile]:
        """Ask with a signature, and servers that do not know that (before v1.11) without."""
        async with AsyncExitStack() as stack:
            try:
                path = path_of(f"{_V1}/{endpoint}", media_id)
                file = await stack.enter_async_context(
                    self._signed(server, self._question(path, query), max_bytes)
                )
            except RemoteRefused as refused:
                if (refused.status, refused.errcode) != (404, "M_UNRECOGNIZED"):
                    raise
                path = path_of(f"{_DEPRECATED}/{endpoint}", server, media_id)
                # Or two servers that each think that the other one has it would ask forever.
                query = [*query, ("allow_remote", "false")]
                file = await stack.enter_async_context(
                    self._unsigned(server, self._question(path, query, signed=False), max_bytes)
                )
            yield file

    def _question(self, path: str, query: Query, *, signed: bool = True) -> Question:
        return Question(
            "GET", path, query,
            signed=signed, urgent=True, timeout_seconds=self._timeout_seconds,
        )  # fmt: skip

    @asynccontextmanager
    async def _unsigned(
        self, server: ServerName, question: Question, max_bytes: int
    ) -> AsyncIterator[RemoteFile]:
        async with self._requests.open(server, question) as response:
            yield self._file(server, response, max_bytes)

    @asynccontextmanager
    async def _signed(
        self, server: ServerName, question: Question, max_bytes: int
    ) -> AsyncIterator[RemoteFile]:
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(self._requests.open(server, question))
            async with self._readable(server):
                boundary = find_boundary(response.headers.get("Content-Type", ""))
                parts = TwoParts(boundary, response.content.iter_any())
                parse_object(server, await parts.read_json())
                headers = await parts.read_file_headers()
            location = headers.get("location")
            if location is None:
                pieces = self._bounded(server, parts.read_file(), max_bytes)
                yield RemoteFile(
                    headers.get("content-type"), headers.get("content-disposition"), pieces
                )
                return
            async with self._requests.failures_of(server):
                elsewhere = await stack.enter_async_context(self._elsewhere(server, location))
            yield self._file(server, elsewhere, max_bytes)

    @asynccontextmanager
    async def _elsewhere(
        self, server: ServerName, location: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Fetch what the server has put at another place, such as an object store."""
        session = self._requests.session_to(server)
        for _ in range(MAX_REDIRECTS + 1):
            url = _https_url(server, location)
            async with session.request(
                "GET", url, timeout_seconds=self._timeout_seconds
            ) as response:
                if response.status == 200:
                    yield response
                    return
                if response.status not in _REDIRECTS:
                    raise RemoteMisbehaved(server, f"status {response.status} elsewhere")
                location = response.headers.get("Location", "")
        raise RemoteMisbehaved(server, "too many redirects")

    def _file(
        self, server: ServerName, response: aiohttp.ClientResponse, max_bytes: int
    ) -> RemoteFile:
        return RemoteFile(
            response.headers.get("Content-Type"),
            response.headers.get("Content-Disposition"),
            self._bounded(server, response.content.iter_any(), max_bytes),
        )

    async def _bounded(
        self, server: ServerName, pieces: AsyncIterator[bytes], max_bytes: int
    ) -> AsyncIterator[bytes]:
        size = 0
        while True:
            async with self._readable(server):
                piece = await anext(pieces, None)
            if piece is None:
                return
            size += len(piece)
            if size > max_bytes:
                raise RemoteTooLarge(server)
            yield piece

    @asynccontextmanager
    async def _readable(self, server: ServerName) -> AsyncIterator[None]:
        async with self._requests.failures_of(server):
            try:
                yield
            except MalformedMultipart as error:
                raise RemoteMisbehaved(server, str(error)) from None


def _https_url(server: ServerName, location: str) -> URL:
    try:
        url = URL(location)
    except (ValueError, IndexError):
        raise RemoteMisbehaved(server, "the file is nowhere") from None
    if url.scheme != "https":
        raise RemoteMisbehaved(server, "the file is not at an https URL")
    return url
