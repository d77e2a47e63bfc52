"""Calls to identity servers, version 2 of their API, on behalf of a user who has a token there.

Spec: identity service API, "Association lookup", "Invitation storage", "Establishing
associations", "Removing associations".
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import aiohttp
import orjson

from yizhan_config.outbound import OutboundRefused, ResponseTooLarge, read_bounded
from yizhan_server.protocol.errors import InvalidParam, MatrixError, MissingParam
from yizhan_server.protocol.identifiers import (
    InvalidIdentifier,
    ServerName,
    UserID,
    parse_server_name,
    parse_user_id,
)
from yizhan_server.protocol.request_signing import sign_request

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from yizhan_config.outbound import OutboundSession
    from yizhan_server.protocol.signing import SigningKey

JsonObject = dict[str, Any]

_PREFIX = "/_matrix/identity/v2"
_TIMEOUT_S = 10
_MAX_ANSWER_BYTES = 65_536


class IdentityServers:
    """Asks the identity servers in `allow` ("*": any) and no others."""

    def __init__(
        self,
        outbound: OutboundSession,
        allow: Collection[str],
        server_name: ServerName,
        signing_key: SigningKey,
    ) -> None:
        self._outbound = outbound
        self._allow = frozenset(allow)
        self._server_name = server_name
        self._signing_key = signing_key

    def access(self, server: object) -> ServerName:
        """Return the server that a client names, or answer M_SERVER_NOT_TRUSTED."""
        if not isinstance(server, str):
            raise MissingParam("'id_server' is needed")
        try:
            name = parse_server_name(server)
        except InvalidIdentifier as error:
            raise InvalidParam(str(error)) from None
        if not self._trusts(name):
            raise MatrixError(400, "M_SERVER_NOT_TRUSTED", "This identity server is not used here")
        return name

    async def find_user(
        self, server: ServerName, token: str, medium: str, address: str
    ) -> UserID | None:
        """Return who is bound to an address there."""
        details = await self._ask("GET", server, "/hash_details", token, None)
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or not isinstance(algorithms, list):
            raise _unusable()
        asked = f"{address} {medium}"
        algorithm = "sha256" if "sha256" in algorithms else "none"
        if algorithm == "sha256":
            digest = hashlib.sha256(f"{asked} {pepper}".encode()).digest()
            asked = urlsafe_b64encode(digest).decode().rstrip("=")
        body = {"addresses": [asked], "algorithm": algorithm, "pepper": pepper}
        answer = await self._ask("POST", server, "/lookup", token, body)
        mappings = answer.get("mappings")
        found = mappings.get(asked) if isinstance(mappings, dict) else None
        try:
            return parse_user_id(found) if isinstance(found, str) else None
        except InvalidIdentifier:
            raise _unusable() from None

    async def store_invite(self, server: ServerName, token: str, invite: JsonObject) -> JsonObject:
        """Leave an invitation for whoever proves to have an address; return what it answered."""
        return await self._ask("POST", server, "/store-invite", token, invite)

    async def bind(
        self, server: ServerName, token: str, *, sid: str, client_secret: str, user_id: UserID
    ) -> tuple[str, str]:
        """Publish a verified address as the user's; return its medium and the address."""
        body = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        answer = await self._ask("POST", server, "/3pid/bind", token, body)
        medium, address = answer.get("medium"), answer.get("address")
        if not isinstance(medium, str) or not isinstance(address, str):
            raise _unusable()
        return medium, address

    async def unbind(self, server: ServerName, user_id: UserID, medium: str, address: str) -> bool:
        """Take a published address back; False when the server cannot do that.

        The request is signed by us, who answer for the user; no token of the user's is needed.
        """
        uri = f"{_PREFIX}/3pid/unbind"
        body = {"mxid": user_id, "threepid": {"medium": medium, "address": address}}
        authorization = sign_request(
            method="POST", uri=uri, origin=self._server_name, destination=server,
            content=body, key=self._signing_key,
        )  # fmt: skip
        headers = {"Authorization": authorization}
        status, answer = await self._request("POST", f"https://{server}{uri}", headers, body)
        if 200 <= status < 300:
            return True
        if answer is None or "errcode" not in answer:
            # Spec: "If the response body is not a JSON Matrix error, the identity server does not
            # support unbinds."
            return False
        raise _refused(status, answer)

    async def is_key_valid(self, url: str, public_key: str) -> bool:
        """Whether an identity server still stands by a key; anything but a plain yes is a no.

        The URL comes out of an event, so whoever wrote that chose it: only servers that are
        trusted are asked.
        """
        try:
            name = parse_server_name(urlsplit(url).netloc)
        except ValueError:
            return False
        if not self._trusts(name):
            return False
        sign = "&" if "?" in url else "?"
        try:
            status, answer = await self._request(
                "GET", f"{url}{sign}public_key={quote(public_key, safe='')}", {}, None
            )
        except MatrixError:
            return False
        return status == 200 and answer is not None and answer.get("valid") is True

    def _trusts(self, name: ServerName) -> bool:
        return "*" in self._allow or name in self._allow

    async def _ask(
        self, method: str, server: ServerName, path: str, token: str, body: JsonObject | None
    ) -> JsonObject:
        status, answer = await self._request(
            method, f"https://{server}{_PREFIX}{path}", {"Authorization": f"Bearer {token}"}, body
        )
        if not 200 <= status < 300:
            raise _refused(status, answer or {})
        if answer is None:
            raise _unusable()
        return answer

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: JsonObject | None
    ) -> tuple[int, JsonObject | None]:
        """Return the status and, if it is an object, the answer; MatrixError 502 without one."""
        data = None if body is None else orjson.dumps(body)
        if data is not None:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            async with self._outbound.request(
                method, url, headers=headers, data=data, timeout_seconds=_TIMEOUT_S
            ) as response:
                content = await read_bounded(response, _MAX_ANSWER_BYTES)
        except (OutboundRefused, aiohttp.ClientError, TimeoutError, ResponseTooLarge, OSError):
            raise MatrixError(502, "M_UNKNOWN", "The identity server does not answer") from None
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        return response.status, answer if isinstance(answer, dict) else None


def _refused(status: int, answer: JsonObject) -> MatrixError:
    """Return its refusal as ours; what it says to people is passed on only as a code."""
    errcode = answer.get("errcode")
    return MatrixError(
        403 if status in (401, 403) else 400,
        errcode if isinstance(errcode, str) else "M_UNKNOWN",
        "The identity server refused",
    )


def _unusable() -> MatrixError:
    return MatrixError(502, "M_UNKNOWN", "The identity server's answer is not usable")
