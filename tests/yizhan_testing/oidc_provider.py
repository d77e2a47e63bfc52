"""An OpenID Connect provider in a process of its own, made of authlib's server.

    async with oidc_provider({"li": {"sub": "7", "preferred_username": "li"}}) as provider: ...

Who signs in is typed into its form. What is given for a person goes into the ID token as it
stands, so that a test can have the provider say anything: also another audience, or an old time.
`_alg` and `_key` choose how that person's token is signed.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

CLIENT_ID = "yizhan at the ministry"
CLIENT_SECRET = "a secret/with: signs%"

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class RunningProvider:
    """Where it is."""

    issuer: str


@asynccontextmanager
async def oidc_provider(people: dict[str, JsonObject]) -> AsyncIterator[RunningProvider]:
    """Run a provider that knows these people, by the name that they type."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "yizhan_testing.oidc_provider", json.dumps(people),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "AUTHLIB_INSECURE_TRANSPORT": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield RunningProvider((await process.stdout.readline()).decode().strip())
    finally:
        process.kill()
        await process.wait()


def _serve(people: dict[str, JsonObject]) -> None:  # noqa: C901 - a program of its own
    from authlib.oauth2.rfc6749 import (  # type: ignore[import-untyped]  # noqa: PLC0415
        AuthorizationServer,
        ClientMixin,
        OAuth2Request,
        grants,
    )
    from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload  # type: ignore[import-untyped]  # noqa: PLC0415
    from authlib.oauth2.rfc6750 import BearerTokenGenerator  # type: ignore[import-untyped]  # noqa: PLC0415
    from authlib.oauth2.rfc7636 import CodeChallenge  # type: ignore[import-untyped]  # noqa: PLC0415
    from authlib.oidc.core import OpenIDCode  # type: ignore[import-untyped]  # noqa: PLC0415
    from joserfc import jws  # noqa: PLC0415
    from joserfc.jwk import OctKey, RSAKey  # noqa: PLC0415

    key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
    other_key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
    codes: dict[str, Any] = {}
    tokens: dict[str, str] = {}
    issuer = ""

    class Client(ClientMixin):  # type: ignore[misc]
        def get_client_id(self) -> str:
            return CLIENT_ID

        def get_default_redirect_uri(self) -> str:
            return ""

        def get_allowed_scope(self, scope: str) -> str:
            return scope

        def check_redirect_uri(self, redirect_uri: str) -> bool:
            return urlsplit(redirect_uri).path == "/_yizhan/account/sso/callback"

        def check_client_secret(self, client_secret: str) -> bool:
            return client_secret == CLIENT_SECRET

        def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
            return method == "client_secret_basic"

        def check_response_type(self, response_type: str) -> bool:
            return response_type == "code"

        def check_grant_type(self, grant_type: str) -> bool:
            return grant_type == "authorization_code"

    class Code:
        def __init__(self, request: OAuth2Request) -> None:
            data = request.payload.data
            self.name, self.scope = request.user, request.payload.scope
            self.redirect_uri, self.nonce = data["redirect_uri"], data.get("nonce")
            self.code_challenge = data.get("code_challenge")
            self.code_challenge_method = data.get("code_challenge_method")

        def get_redirect_uri(self) -> str:
            return str(self.redirect_uri)

        def get_scope(self) -> str:
            return str(self.scope)

        def get_nonce(self) -> Any:
            return self.nonce

        def get_auth_time(self) -> int:
            return int(time.time())

        def get_acr(self) -> None:
            return None

        def get_amr(self) -> None:
            return None

    class Grant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
        def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
            codes[code] = Code(request)

        def query_authorization_code(self, code: str, client: Client) -> Any:
            return codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            codes.clear()

        def authenticate_user(self, authorization_code: Code) -> str:
            return str(authorization_code.name)

    class IdTokens(OpenIDCode):  # type: ignore[misc]
        def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
            return False

        def get_client_claims(self, client: Client) -> JsonObject:
            now = int(time.time())
            return {"iss": issuer, "iat": now, "exp": now + 3600}

        def get_client_algorithm(self, client: Client) -> str:
            return "RS256"

        def get_encode_header(self, client: Client) -> JsonObject:
            return {"alg": "RS256", "kid": "one"}

        def resolve_client_private_key(self, client: Client) -> Any:
            return key

        def generate_user_info(self, user: str, scope: str) -> JsonObject:
            return {name: v for name, v in people[user].items() if not name.startswith("_")}

        def encode_id_token(self, token: JsonObject, request: OAuth2Request) -> Any:
            person = people[request.user]
            encoded = super().encode_id_token(token, request)
            if "_alg" not in person and "_key" not in person:
                return encoded
            payload = jws.deserialize_compact(encoded, key, ["RS256"]).payload
            alg = person.get("_alg", "RS256")
            signing: Any = other_key
            if alg == "HS256":  # our public key, taken for a shared secret
                signing = OctKey.import_key(key.as_pem(private=False))
            if alg == "none":
                signing = OctKey.generate_key()
            return jws.serialize_compact({"alg": alg, "kid": "one"}, payload, signing, [alg])

    class Server(AuthorizationServer):  # type: ignore[misc]
        def query_client(self, client_id: str) -> Client | None:
            return Client() if client_id == CLIENT_ID else None

        def save_token(self, token: JsonObject, request: OAuth2Request) -> None:
            tokens[token["access_token"]] = request.user

        def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
            return request

        def handle_response(self, status: int, body: Any, headers: Any) -> Any:
            return status, body, dict(headers)

        def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
            return None

    server = Server()
    server.register_token_generator(
        "default", BearerTokenGenerator(lambda **_: secrets.token_urlsafe(24))
    )
    server.register_grant(Grant, [CodeChallenge(required=True), IdTokens(require_nonce=True)])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/.well-known/openid-configuration":
                self._json(
                    {
                        "issuer": issuer,
                        "authorization_endpoint": f"{issuer}/authorize",
                        "token_endpoint": f"{issuer}/token",
                        "userinfo_endpoint": f"{issuer}/userinfo",
                        "jwks_uri": f"{issuer}/keys",
                    }
                )
            elif path == "/keys":
                self._json({"keys": [key.as_dict(private=False)]})
            elif path == "/userinfo":
                name = tokens[self.headers["Authorization"].removeprefix("Bearer ")]
                self._json(people[name].get("_userinfo", {}))
            elif path == "/authorize":
                form = (
                    f'<form method="post" action="{escape(self.path)}"><input name="name"></form>'
                )
                self._answer(200, form.encode(), {"Content-Type": "text/html"})
            else:
                self._answer(404, b"", {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = dict(parse_qsl(body))
            request = OAuth2Request(self.command, issuer + self.path, headers=self.headers)
            request.payload = BasicOAuth2Payload(
                form if self.path == "/token" else dict(parse_qsl(urlsplit(self.path).query))
            )
            request._body = form  # where authlib still looks for client_secret_post
            if self.path == "/token":
                status, answer, headers = server.create_token_response(request)
            else:
                grant = server.get_consent_grant(request=request, end_user=form["name"])
                status, answer, headers = server.create_authorization_response(
                    request=request, grant_user=form["name"], grant=grant
                )
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self._answer(status, text.encode(), headers)

        def _json(self, answer: JsonObject) -> None:
            self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = f"http://127.0.0.1:{listener.server_address[1]}"
    sys.stdout.write(f"{issuer}\n")
    sys.stdout.flush()
    listener.serve_forever()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
