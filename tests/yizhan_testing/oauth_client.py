"""An OAuth client of the Matrix kind, as a program that signs in through a browser has it."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from yizhan_testing.account_server import PASSWORD, AccountServer, Answer

if TYPE_CHECKING:
    from yizhan_testing.browser import Browser, Page

OAUTH = "/_yizhan/oauth2"
METADATA: dict[str, Any] = {
    "client_name": "Postbox",
    "client_uri": "https://postbox.example/",
    "redirect_uris": ["https://app.postbox.example/back"],
    "response_types": ["code"],
    "grant_types": [
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:device_code",
    ],
    "token_endpoint_auth_method": "none",
    "application_type": "web",
}


def scope_for(device_id: str) -> str:
    return f"urn:matrix:client:api:* urn:matrix:client:device:{device_id}"


def challenge_of(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass
class OAuthClient:
    """A registered client."""

    server: AccountServer
    client_id: str
    redirect_uri: str = METADATA["redirect_uris"][0]
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    @classmethod
    async def register(cls, server: AccountServer, **changes: Any) -> OAuthClient:
        metadata = METADATA | changes
        answer = await server.call("POST", "/register", metadata, prefix=OAUTH)
        assert answer.status == 201, answer.json
        return cls(server, answer.json["client_id"], metadata["redirect_uris"][0])

    def authorize_path(self, device_id: str = "PHONE", /, **changes: str | None) -> str:
        """Return the authorization request, with parameters changed or (None) left out."""
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": scope_for(device_id),
            "state": "some state",
            "response_mode": "query",
            "code_challenge": challenge_of(self.verifier),
            "code_challenge_method": "S256",
            **changes,
        }
        kept = {name: value for name, value in query.items() if value is not None}
        return f"/_yizhan/account/authorize?{urlencode(kept)}"

    async def consented(
        self, browser: Browser, localpart: str, device_id: str = "PHONE", **changes: str | None
    ) -> Page:
        """Have somebody sign in where needed, and agree; returns where that leads."""
        page = await browser.opens(self.authorize_path(device_id, **changes))
        if page.url.path.endswith("/login"):
            page = await browser.signs_in(page, localpart, PASSWORD)
        return await browser.sends(page.form("/authorize"), press="allow")

    async def gets_code(self, browser: Browser, localpart: str, device_id: str = "PHONE") -> str:
        page = await self.consented(browser, localpart, device_id)
        return answer_in(page)["code"]

    async def token(self, **form: str) -> Answer:
        """Call the token endpoint."""
        raw = urlencode({"client_id": self.client_id, **form}).encode()
        return await self.post("/token", raw)

    async def post(self, path: str, raw: bytes) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url = self.server.url + OAUTH + path
        async with self.server.http.post(url, data=raw, headers=headers) as response:
            return Answer(response.status, await response.json())

    async def redeems(self, code: str, **changes: str) -> Answer:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": self.verifier,
        }
        return await self.token(**{**form, **changes})

    async def refreshes(self, refresh_token: str, **changes: str) -> Answer:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self.token(**{**form, **changes})

    async def signs_in(self, browser: Browser, localpart: str, device_id: str = "PHONE") -> Answer:
        answer = await self.redeems(await self.gets_code(browser, localpart, device_id))
        assert answer.status == 200, answer.json
        return answer


def answer_in(page: Page) -> dict[str, str]:
    """Return the parameters that a redirect to the client carries."""
    assert page.location is not None, page.text
    parts = urlsplit(page.location)
    return {name: values[0] for name, values in parse_qs(parts.query or parts.fragment).items()}


async def whoami(server: AccountServer, token: str) -> Answer:
    return await server.call("GET", "/v3/account/whoami", token=token)
