"""Which server makes a request: the gate of the server-server API.

A request is looked at in an order that lets strangers cause little: first what it claims, without
any work; then whether that server may speak with us at all; only then is its body read, and its
key fetched where it is not known. One condition per line.

Spec: server-server API, "Request Authentication".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import Forbidden, InvalidParam, MatrixError, TooLarge
from yizhan_server.protocol.request_signing import (
    InvalidServerName,
    MalformedAuthorization,
    RequestSignature,
    parse_authorization,
    parse_content,
)
from yizhan_server.protocol.signing import InvalidSignature

if TYPE_CHECKING:
    from aiohttp import web

    from yizhan_server.federation_client.destinations import Destinations
    from yizhan_server.federation_client.key_ring import KeyRing
    from yizhan_server.federation_client.peers import Peers
    from yizhan_server.protocol.canonical_json import JsonObject
    from yizhan_server.protocol.identifiers import ServerName


LARGE_BYTES = 1 << 16
"""Larger bodies are parsed and checked in threads: one of a megabyte can take half a second."""

DENSE_FROM_BYTES = 1 << 19
BYTES_PER_COMMA = 8
"""Fewer in a body longer than that are tiny values, of which it takes some sixty bytes of memory
each. They may be an honest server's, whose users can write events of nothing else."""


class PeerAuthentication:
    """Tells which server has signed a request."""

    def __init__(
        self, server_name: ServerName, peers: Peers, keys: KeyRing, destinations: Destinations
    ) -> None:
        self._server_name = server_name
        self._peers = peers
        self._keys = keys
        self._destinations = destinations

    def read_claim(self, request: web.BaseRequest) -> RequestSignature:
        """Return what the request says of its origin, not yet proven.

        Answers M_UNAUTHORIZED if it says nothing, M_INVALID_PARAM if what it names can be no
        server, and M_FORBIDDEN to a server that is not let in.
        """
        header = request.headers.get("Authorization")
        if header is None:
            raise _unauthorized("The request is not signed")
        try:
            claimed = parse_authorization(header)
        except InvalidServerName as error:
            raise InvalidParam(f"Invalid server name: {error}") from None
        except MalformedAuthorization as error:
            raise _unauthorized(f"Malformed Authorization header: {error}") from None
        if claimed.destination not in (None, self._server_name):
            raise _unauthorized("The request is meant for another server")
        if not self._peers.is_allowed(claimed.origin):
            raise Forbidden("This server does not federate with yours")
        return claimed

    async def check(
        self, request: web.BaseRequest, claimed: RequestSignature, body: bytes
    ) -> JsonObject | None:
        """Return the parsed body if the origin has signed this very request.

        Answers M_UNAUTHORIZED if not, and M_NOT_JSON, M_BAD_JSON or M_TOO_LARGE to what is no
        object or too much of one. A server that asks is back: whatever waits for it is sent at
        once.
        """
        if len(body) > LARGE_BYTES:
            content = await self._check_large(request, claimed, body)
        else:
            content = parse_content(body)
            await self._check_parsed(request, claimed, content)
        self._destinations.note_alive(claimed.origin)
        return content

    async def _check_large(
        self, request: web.BaseRequest, claimed: RequestSignature, body: bytes
    ) -> JsonObject | None:
        """Do so for a body that is read only once it is known whose it is.

        Servers send what they sign, to the letter, though they need not: then it is read first,
        unless that may take many times its size.
        """
        is_signed = await self._keys.has_signed_body(
            claimed, method=request.method, uri=request.raw_path, body=body
        )
        if not is_signed and _is_dense(body):
            raise TooLarge("The body holds too many values to be read in a form of your own")
        content = await asyncio.to_thread(parse_content, body)
        if not is_signed:
            await self._check_parsed(request, claimed, content, is_large=True)
        return content

    async def _check_parsed(
        self,
        request: web.BaseRequest,
        claimed: RequestSignature,
        content: JsonObject | None,
        *,
        is_large: bool = False,
    ) -> None:
        try:
            await self._keys.check_request(
                claimed,
                method=request.method,
                uri=request.raw_path,
                content=content,
                is_large=is_large,
            )
        except InvalidSignature as error:
            raise _unauthorized(f"Invalid signature: {error}") from None


def _is_dense(body: bytes) -> bool:
    return len(body) > DENSE_FROM_BYTES and body.count(b",") * BYTES_PER_COMMA > len(body)


def _unauthorized(message: str) -> MatrixError:
    return MatrixError(401, "M_UNAUTHORIZED", message)
