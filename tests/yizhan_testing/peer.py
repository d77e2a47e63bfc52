"""Another homeserver, played by the test: it has a name, a key, TLS, and signs its requests.

    async with open_peer(authority) as peer:
        async with homeserver_in_process(folder, dialect, **federating(authority, peer)) as server:
            answer = await peer.asks(server, "GET", "/_matrix/federation/v1/query/profile?...")
            peer.answers["GET", "/_matrix/federation/v1/version"] = {"server": {}}

Its name is an address with a port, so that it is found without names being looked up. What it is
asked is kept in `asked`; what it has no answer for is answered as unknown.
"""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from yizhan_server.protocol.canonical_json import parse_any
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.request_signing import sign_request
from yizhan_server.protocol.server_keys import OldKey, OwnKeys
from yizhan_server.protocol.signing import SigningKey, sign_json
from yizhan_testing.certificates import CertificateAuthority

JsonObject = dict[str, Any]

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | JsonObject]]


class FederatingServer(Protocol):
    """A homeserver under test."""

    @property
    def base_url(self) -> str: ...

    @property
    def server_name(self) -> str: ...


@dataclass(frozen=True)
class Answered:
    """What the homeserver answered."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return parse_any(self.content)

    @property
    def errcode(self) -> str:
        return str(self.json["errcode"])


@dataclass
class Peer:
    """One such server, listening."""

    name: ServerName
    http: aiohttp.ClientSession
    key: SigningKey = field(default_factory=lambda: SigningKey.generate("p1"))
    old_keys: list[OldKey] = field(default_factory=list)
    is_down: bool = False
    """While set, it answers 502 to everything."""
    answers: dict[tuple[str, str], JsonObject | Handler] = field(default_factory=dict)
    """By method and path."""
    handlers_below: dict[str, Handler] = field(default_factory=dict)
    """By the beginning of the path, for paths that the homeserver makes up."""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def published(self, *, now_ms: int | None = None) -> JsonObject:
        """Return what it publishes as its keys."""
        own = OwnKeys(self.name, self.key, self.old_keys)
        return own.publish(time.time_ns() // 1_000_000 if now_ms is None else now_ms)

    def vouches(self, published: JsonObject) -> JsonObject:
        """Return what another server publishes, with a notary's signature of this one added."""
        return sign_json(published, self.name, self.key)

    def rotates(self, expired_ms: int, version: str = "p2") -> None:
        """Take a new key into use and publish the old one as such."""
        self.old_keys.append(OldKey(self.key.verify_key, expired_ms))
        self.key = SigningKey.generate(version)

    def count(self, path: str) -> int:
        """Return how often it was asked at `path`."""
        return sum(asked == path for _, asked in self.asked)

    def authorization(
        self, destination: str, method: str, uri: str, content: JsonObject | None = None
    ) -> str:
        """Return the header that signs a request of its own."""
        return sign_request(
            method=method, uri=uri, origin=self.name, destination=ServerName(destination),
            content=content, key=self.key,
        )  # fmt: skip

    async def asks(
        self,
        homeserver: FederatingServer,
        method: str,
        uri: str,
        content: JsonObject | None = None,
        *,
        authorization: str | None = None,
        body: bytes | None = None,
    ) -> Answered:
        """Send a signed request, or one with another `authorization` ("": none) or `body`."""
        if authorization is None:
            authorization = self.authorization(homeserver.server_name, method, uri, content)
        if body is None and content is not None:
            body = orjson.dumps(content)
        headers = {"Authorization": authorization} if authorization else {}
        url = URL(homeserver.base_url + uri, encoded=True)
        data = None if body is None else io.BytesIO(body)
        async with self.http.request(method, url, data=data, headers=headers) as response:
            return Answered(response.status, response.headers, await response.read())

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request as the test has ordained."""
        path = request.rel_url.raw_path
        self.asked.append((request.method, path))
        if self.is_down:
            return web.Response(status=502)
        answer = self.answers.get((request.method, path))
        if answer is None:
            below = self.handlers_below.items()
            answer = next((each for prefix, each in below if path.startswith(prefix)), None)
        if answer is None and path == "/_matrix/key/v2/server":
            answer = self.published()
        if answer is None:
            return web.json_response(
                {"errcode": "M_UNRECOGNIZED", "error": "Not among the answers"}, status=404
            )
        made = answer if isinstance(answer, dict) else await answer(request)
        return made if isinstance(made, web.StreamResponse) else web.json_response(made)


@asynccontextmanager
async def open_peer(
    authority: CertificateAuthority,
    *,
    host: str = "127.0.0.1",
    certified: str | None = None,
    expired: bool = False,
) -> AsyncIterator[Peer]:
    """Run a peer on a free port of `host`, an address of the loopback, until the block ends.

    Its certificate is for the host, unless another is given, and valid unless it is `expired`.
    """
    async with aiohttp.ClientSession() as http:
        peers: list[Peer] = []

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return await peers[0].answer(request)

        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=1)
        await runner.setup()
        try:
            context = authority.server_context(certified or host, expired=expired)
            await web.TCPSite(runner, host, 0, ssl_context=context).start()
            peers.append(Peer(ServerName(f"{host}:{runner.addresses[0][1]}"), http))
            yield peers[0]
        finally:
            await runner.cleanup()


def federating(authority: CertificateAuthority, *peers: Peer, **more: object) -> dict[str, object]:
    """Return the settings of a homeserver that speaks with these peers only."""
    return {
        "federation.allow": [peer.name for peer in peers],
        "federation.private_addresses": ["127.0.0.1"],
        "federation.trusted_ca_files": [str(authority.file)],
        **more,
    }
