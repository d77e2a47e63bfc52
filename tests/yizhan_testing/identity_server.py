"""An identity server of tests, version 2 of the specification's API, all of it in memory.

async with identity_server(authority) as directory: ...
await directory.tells_of_binding(homeserver.base_url, "a@b.example", alice.user_id)
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.request_signing import check_request_signature, parse_authorization
from yizhan_server.protocol.signing import SigningKey, VerifyKey, sign_json
from yizhan_testing.certificates import CertificateAuthority

JsonObject = dict[str, Any]

TOKEN = "a token there"
PEPPER = "matrixrocks"


class IdentityServer:
    """A directory of e-mail addresses."""

    def __init__(self) -> None:
        self.name = ""
        self.key = SigningKey.generate("0")
        self.stands_by_key = True
        self.algorithms = ["none", "sha256"]
        self.can_unbind = True
        self.homeserver_key: VerifyKey | None = None
        self.bound: dict[str, str] = {}
        """User by address."""
        self.verified: dict[str, str] = {}
        """Address by session id."""
        self.kept: list[JsonObject] = []
        """Invitations for addresses that are nobody's yet."""

    async def tells_of_binding(
        self, base_url: str, address: str, user_id: str, *, method: str = "PUT"
    ) -> int:
        """Bind an address and tell the user's homeserver; return the status it answers."""
        self.bound[address] = user_id
        body = {
            "medium": "email",
            "address": address,
            "mxid": user_id,
            "invites": [
                {**invite, "mxid": user_id, "signed": self.signed(invite["token"], user_id)}
                for invite in self.kept
                if invite["address"] == address
            ],
        }
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                method, f"{base_url}/_matrix/federation/v1/3pid/onbind", json=body
            ) as response,
        ):
            return response.status

    def signed(self, token: str, user_id: str) -> JsonObject:
        """Return the proof that a user has the address that `token` was made for."""
        return sign_json({"mxid": user_id, "token": token}, self.name, self.key)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.path.removeprefix("/_matrix/identity/v2")
        answers: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {
            "/hash_details": self._hash_details,
            "/lookup": self._lookup,
            "/store-invite": self._store_invite,
            "/3pid/bind": self._bind,
            "/3pid/unbind": self._unbind,
            "/pubkey/isvalid": self._is_valid,
        }
        signs_itself = path in ("/3pid/unbind", "/pubkey/isvalid")
        if not signs_itself and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"errcode": "M_UNAUTHORIZED"}, status=401)
        return await answers[path](request)

    async def _hash_details(self, _: web.BaseRequest) -> web.Response:
        return web.json_response({"lookup_pepper": PEPPER, "algorithms": self.algorithms})

    async def _lookup(self, request: web.BaseRequest) -> web.Response:
        asked = await request.json()
        assert asked["pepper"] == PEPPER
        written = {}
        for address, user_id in self.bound.items():
            text = f"{address} email"
            if asked["algorithm"] == "sha256":
                digest = hashlib.sha256(f"{text} {PEPPER}".encode()).digest()
                text = urlsafe_b64encode(digest).decode().rstrip("=")
            written[text] = user_id
        found = {each: written[each] for each in asked["addresses"] if each in written}
        return web.json_response({"mappings": found})

    async def _store_invite(self, request: web.BaseRequest) -> web.Response:
        token = f"token-{len(self.kept)}"
        self.kept.append({**await request.json(), "token": token})
        url = f"https://{self.name}/_matrix/identity/v2/pubkey/isvalid"
        key = {"public_key": self.key.verify_key.to_base64(), "key_validity_url": url}
        return web.json_response(
            {"token": token, "display_name": "a...@b...", "public_keys": [key]}
        )

    async def _bind(self, request: web.BaseRequest) -> web.Response:
        asked = await request.json()
        address = self.verified.get(asked["sid"])
        if address is None or asked["client_secret"] != "secret":
            return web.json_response({"errcode": "M_SESSION_NOT_VALIDATED"}, status=400)
        self.bound[address] = asked["mxid"]
        return web.json_response({"medium": "email", "address": address, "mxid": asked["mxid"]})

    async def _unbind(self, request: web.BaseRequest) -> web.Response:
        if not self.can_unbind:
            return web.Response(status=501)
        body = await request.json()
        claimed = parse_authorization(request.headers["Authorization"])
        assert self.homeserver_key is not None
        check_request_signature(
            claimed, method="POST", uri=request.path, destination=ServerName(self.name),
            content=body, keys={self.homeserver_key.key_id: self.homeserver_key},
        )  # fmt: skip
        if self.bound.get(body["threepid"]["address"]) != body["mxid"]:
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        del self.bound[body["threepid"]["address"]]
        return web.json_response({})

    async def _is_valid(self, request: web.BaseRequest) -> web.Response:
        is_ours = request.query.get("public_key") == self.key.verify_key.to_base64()
        return web.json_response({"valid": is_ours and self.stands_by_key})


@asynccontextmanager
async def identity_server(authority: CertificateAuthority) -> AsyncIterator[IdentityServer]:
    """Run one on a free port of the loopback."""
    directory = IdentityServer()
    runner = web.ServerRunner(web.Server(directory.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        context = authority.server_context("127.0.0.1")
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        directory.name = f"127.0.0.1:{runner.addresses[0][1]}"
        yield directory
    finally:
        await runner.cleanup()
