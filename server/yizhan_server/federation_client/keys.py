"""Asking for the keys with which servers sign. None of this proves anything yet.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from yizhan_server.federation_client.answers import parse_object, parse_typed
from yizhan_server.federation_client.requests import Question, Requests, body_of
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import ServerName

MAX_KEYS_BYTES = 1024 * 1024
_TIMEOUT_SECONDS = 20.0


class _ServerKeys(msgspec.Struct):
    server_keys: list[JsonObject]


class KeyRequests:
    """One method for each endpoint; all raise the four kinds of RemoteFailure."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def server_keys(self, server: ServerName) -> JsonObject:
        """Return what `server` publishes as its keys, signed by itself."""
        question = Question(
            "GET", "/_matrix/key/v2/server",
            signed=False, urgent=True, timeout_seconds=_TIMEOUT_SECONDS, max_bytes=MAX_KEYS_BYTES,
        )  # fmt: skip
        return parse_object(server, await self._requests.ask(server, question))

    async def notary_keys(
        self, notary: ServerName, wanted: Mapping[ServerName, Mapping[str, int]]
    ) -> list[JsonObject]:
        """Return what `notary` knows of other servers' keys, signed by both.

        `wanted` is by server and key ID until when (milliseconds) the key has to be valid; no
        key IDs means all of them.
        """
        content: JsonObject = {
            "server_keys": {
                server: {
                    key_id: {"minimum_valid_until_ts": until_ms}
                    for key_id, until_ms in keys.items()
                }
                for server, keys in wanted.items()
            }
        }
        question = Question(
            "POST", "/_matrix/key/v2/query", body=body_of(content),
            signed=False, urgent=True, timeout_seconds=_TIMEOUT_SECONDS, max_bytes=MAX_KEYS_BYTES,
        )  # fmt: skip
        answer = await self._requests.ask(notary, question)
        return parse_typed(notary, answer, _ServerKeys).server_keys
