"""One signed request to another server, and its answer as bytes.

Nothing of an answer is trusted here or anywhere: it is bounded in size and in time, an error of
the specification is told apart from a failure, and what it says is parsed by the modules of the
endpoints.

Spec: server-server API, "Request Authentication", "TLS".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from yizhan_config.outbound import (
    OutboundRefused,
    OutboundSession,
    ResponseTooLarge,
    read_bounded,
)
from yizhan_server.federation_client.connections import Connections
from yizhan_server.federation_client.destinations import LONGEST_MS, Destinations
from yizhan_server.federation_client.discovery import Discovery
from yizhan_server.federation_client.errors import (
    RemoteMisbehaved,
    RemoteRefused,
    RemoteUnavailable,
)
from yizhan_server.federation_client.peers import Peers
from yizhan_server.federation_client.places import Target
from yizhan_server.protocol.canonical_json import JsonObject, encode_canonical, parse_json
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.request_signing import parse_content, sign_request
from yizhan_server.protocol.signing import SigningKey

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024

_NOT_CONNECTED = (OutboundRefused, aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Nothing has been sent when one of these is raised, so that another target may be tried."""

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """What a server is asked. `path` is percent-encoded (`path_of`)."""

    method: str
    path: str
    query: Query = ()
    body: bytes | None = None
    """JSON."""
    signed: bool = True
    urgent: bool = False
    """Whether a server is asked even while it is left alone: somebody is waiting for this."""
    may_be_own: bool = False
    """Whether it may go to another program that has the name of this server."""
    timeout_seconds: float | None = None
    max_bytes: int = MAX_ANSWER_BYTES

    @property
    def uri(self) -> str:
        """The request target, which is what gets signed."""
        return f"{self.path}?{urlencode(self.query, quote_via=quote)}" if self.query else self.path


def path_of(prefix: str, *parts: str) -> str:
    """Return `prefix` and `parts`, each percent-encoded, as one path."""
    return "/".join((prefix, *(quote(part, safe="") for part in parts)))


def body_of(content: JsonObject) -> bytes:
    """Return the bytes of a body. Raises NotCanonical."""
    return encode_canonical(content)


class Requests:
    """Sends requests to servers by their names."""

    def __init__(
        self,
        own: ServerName,
        key: SigningKey,
        peers: Peers,
        destinations: Destinations,
        discovery: Discovery,
        connections: Connections,
        timeout_seconds: float,
    ) -> None:
        self._own = own
        self._key = key
        self._peers = peers
        self._destinations = destinations
        self._discovery = discovery
        self._connections = connections
        self._timeout_seconds = timeout_seconds

    async def ask(self, server: ServerName, question: Question) -> bytes:
        """Return the body of the answer. Raises the four kinds of RemoteFailure."""
        async with self.open(server, question) as response, self.failures_of(server):
            return await read_bounded(response, question.max_bytes)

    @asynccontextmanager
    async def open(
        self, server: ServerName, question: Question
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request; gives the successful answer, to be read under `failures_of`.

        Raises the four kinds of RemoteFailure.
        """
        if not (question.may_be_own and server == self._own):
            self._peers.check(server)
        if not question.urgent:
            self._destinations.check(server)
        async with AsyncExitStack() as stack:
            limit = question.timeout_seconds or self._timeout_seconds
            # Of all targets together: a domain may name many that never answer.
            async with self.failures_of(server), asyncio.timeout(limit):
                session = self.session_to(server)
                targets = await self._discovery.find(server, session)
                response = await stack.enter_async_context(
                    self._connected(server, session, targets, question)
                )
                await self._check_status(server, question, response)
            yield response

    async def find(self, server: ServerName) -> tuple[Target, ...]:
        """Return where `server` is, in the order in which it is tried.

        Raises PeerNotAllowed and RemoteUnavailable.
        """
        self._peers.check(server)
        async with self.failures_of(server), asyncio.timeout(self._timeout_seconds):
            return await self._discovery.find(server, self.session_to(server))

    def why_no_delegation(self, server: ServerName) -> Exception | None:
        """Return what is wrong with the well-known file of a server that `find` has looked for."""
        return self._discovery.why_no_delegation(server)

    @asynccontextmanager
    async def failures_of(self, server: ServerName) -> AsyncIterator[None]:
        """Turn what goes wrong with a connection to `server` into a RemoteFailure."""
        try:
            yield
        except ResponseTooLarge as error:
            raise RemoteMisbehaved(server, "the answer is too large") from error
        except OutboundRefused as error:
            await self._destinations.note_failure(server)
            raise RemoteUnavailable(server, str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await self._destinations.note_failure(server)
            raise RemoteUnavailable(server, type(error).__name__) from error

    def session_to(self, server: ServerName) -> OutboundSession:
        """Return the pool through which `server`, and what it points to, may be reached."""
        listed = self._peers.is_listed(server) or server == self._own
        return self._connections.to_listed if listed else self._connections.to_others

    @asynccontextmanager
    async def _connected(
        self,
        server: ServerName,
        session: OutboundSession,
        targets: Sequence[Target],
        question: Question,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request to the first target that can be connected to."""
        headers = self._headers(server, question)
        async with AsyncExitStack() as stack:
            for number, target in enumerate(targets):
                request = session.request(
                    question.method,
                    _url(target, question.uri),
                    headers={**headers, "Host": target.host_header},
                    data=question.body,
                    timeout_seconds=question.timeout_seconds,
                    tls_name=target.tls_name,
                )
                try:
                    response = await stack.enter_async_context(request)
                except _NOT_CONNECTED as error:
                    self._discovery.reconsider(server)
                    if number + 1 == len(targets):
                        raise
                    log.debug(
                        "next target", extra={"server": server, "error": type(error).__name__}
                    )
                else:
                    yield response
                    return

    def _headers(self, server: ServerName, question: Question) -> dict[str, str]:
        headers = {}
        if question.body is not None:
            headers["Content-Type"] = "application/json"
        if question.signed:
            headers["Authorization"] = sign_request(
                method=question.method,
                uri=question.uri,
                origin=self._own,
                destination=server,
                content=parse_content(question.body or b""),
                key=self._key,
            )
        return headers

    async def _check_status(
        self, server: ServerName, question: Question, response: aiohttp.ClientResponse
    ) -> None:
        """Raise for everything but a success, and note what it says about the server."""
        status = response.status
        if 200 <= status < 300:
            self._destinations.note_alive(server)
            return
        if status < 400:
            self._destinations.note_alive(server)
            raise RemoteMisbehaved(server, f"status {status}")
        body = _parse_error(await read_bounded(response, MAX_ERROR_BYTES))
        if status == 429 and not question.urgent:
            wait_ms = _retry_after_ms(body, response.headers.get("Retry-After", ""))
            await self._destinations.note_failure(server, at_least_ms=wait_ms)
        elif status >= 500 and body.get("errcode", "M_UNKNOWN") == "M_UNKNOWN":
            # Something before the server, or a fault in it: nobody has decided anything.
            await self._destinations.note_failure(server)
            raise RemoteUnavailable(server, f"status {status}")
        else:
            self._destinations.note_alive(server)
        raise RemoteRefused(server, status, body)


def _url(target: Target, uri: str) -> URL:
    host = f"[{target.host}]" if ":" in target.host else target.host
    # Encoded already: what is signed must be what is sent, to the letter.
    return URL(f"https://{host}:{target.port}{uri}", encoded=True)


def _parse_error(body: bytes) -> JsonObject:
    try:
        parsed = parse_json(body)
    except MatrixError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _retry_after_ms(body: JsonObject, header: str) -> int:
    stated = body.get("retry_after_ms")
    if type(stated) is int and stated >= 0:
        return min(stated, LONGEST_MS)
    if header.isascii() and header.isdecimal() and len(header) < 8:
        return min(int(header) * 1000, LONGEST_MS)
    return 0
