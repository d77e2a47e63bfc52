"""The conversation with one OpenID Connect provider: discovery, code exchange, ID token.

Everything goes through the outbound gate, so a provider with a private address must stand in
`outbound.allow`. An ID token counts only when it is signed by the provider's published keys, with
an asymmetric algorithm, for us, now, and with the nonce of this very attempt.

Spec: OpenID Connect Core 1.0 section 3.1, OpenID Connect Discovery 1.0, RFC 7636.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from yizhan_config.outbound import OutboundRefused, ResponseTooLarge, read_bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yizhan_config.outbound import OutboundSession
    from yizhan_config.settings import Oidc as OidcSettings
    from yizhan_server.clock import Clock

JsonObject = dict[str, Any]

# Never `none`, and never one that the provider and we would share a secret for: a public key
# taken for such a secret is the oldest forgery of all.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
               "EdDSA", "Ed25519")  # fmt: skip
_MAX_ANSWER_BYTES = 262_144
_TIMEOUT_S = 15
_METADATA_LASTS_MS = 3_600_000
_KEYS_LAST_MS = 3_600_000
_KEYS_AGAIN_AFTER_MS = 60_000
_LEEWAY_S = 60


class ProviderFailed(Exception):
    """The provider cannot be reached, or what it says is not acceptable; for the log."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one sign-in must be recognised by when the browser comes back."""

    state: str
    nonce: str
    verifier: str


class Provider:
    """One OpenID Connect provider."""

    def __init__(
        self,
        settings: OidcSettings,
        client_secret: str | None,
        redirect_uri: str,
        outbound: OutboundSession,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._outbound = outbound
        self._clock = clock
        self._metadata: tuple[int, JsonObject] | None = None
        self._keys: tuple[int, KeySet] | None = None

    @property
    def issuer(self) -> str:
        """The issuer, as configured."""
        return self._settings.issuer

    async def authorization_url(self, attempt: Attempt, *, again: bool) -> str:
        """Return where the browser is sent (to be asked `again`, if so); ProviderFailed."""
        metadata = await self._discover()
        endpoint = _required(metadata, "authorization_endpoint")
        digest = hashlib.sha256(attempt.verifier.encode()).digest()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._settings.client_id,
                "redirect_uri": self._redirect_uri,
                "scope": " ".join(dict.fromkeys(("openid", *self._settings.scopes))),
                "state": attempt.state,
                "nonce": attempt.nonce,
                "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
                **({"prompt": "login"} if again else {}),
            }
        )
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    async def redeem(self, attempt: Attempt, code: str) -> JsonObject:
        """Return the claims about who signed in; ProviderFailed."""
        metadata = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": attempt.verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if self._client_secret is None:
            form["client_id"] = self._settings.client_id
        elif "client_secret_basic" in methods:
            pair = f"{quote(self._settings.client_id)}:{quote(self._client_secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self._settings.client_id, "client_secret": self._client_secret}
        answer = await self._fetch(
            "POST", _required(metadata, "token_endpoint"), headers, urlencode(form).encode()
        )
        claims = await self._verify(_required(answer, "id_token"), attempt.nonce)
        endpoint = metadata.get("userinfo_endpoint")
        if self._settings.localpart_claim not in claims and isinstance(endpoint, str):
            bearer = {"Authorization": f"Bearer {_required(answer, 'access_token')}"}
            more = await self._fetch("GET", endpoint, bearer, None)
            if more.get("sub") != claims["sub"]:
                raise ProviderFailed("userinfo is about somebody else")
            claims = {**more, **claims}
        return claims

    async def _verify(self, id_token: str, nonce: str) -> JsonObject:
        keys = await self._get_keys(fresh=False)
        try:
            token = jwt.decode(id_token, keys, algorithms=_ALGORITHMS)
        except (JoseError, ValueError):
            # Perhaps the provider has new keys.
            keys = await self._get_keys(fresh=True)
            try:
                token = jwt.decode(id_token, keys, algorithms=_ALGORITHMS)
            except (JoseError, ValueError) as error:
                raise ProviderFailed(f"the ID token is not signed by it: {error}") from None
        registry = JWTClaimsRegistry(
            now=self._clock.now_ms() // 1000,
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self._settings.client_id},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
            sub={"essential": True},
        )
        claims: JsonObject = token.claims
        try:
            registry.validate(claims)
        except JoseError as error:
            raise ProviderFailed(f"the ID token is not acceptable: {error}") from None
        audience = claims["aud"]
        has_others = isinstance(audience, list) and len(audience) > 1
        if (has_others or "azp" in claims) and claims.get("azp") != self._settings.client_id:
            raise ProviderFailed("the ID token was made for another party")
        if not claims["sub"] or len(claims["sub"]) > 255 or "\0" in claims["sub"]:
            raise ProviderFailed("the subject is not usable")
        return claims

    async def _discover(self) -> JsonObject:
        now_ms = self._clock.now_ms()
        if self._metadata is not None and now_ms - self._metadata[0] < _METADATA_LASTS_MS:
            return self._metadata[1]
        url = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        metadata = await self._fetch("GET", url, {}, None)
        if metadata.get("issuer") != self.issuer:
            raise ProviderFailed("it calls itself by another issuer than sso.oidc.issuer")
        self._metadata = (now_ms, metadata)
        return metadata

    async def _get_keys(self, *, fresh: bool) -> KeySet:
        now_ms = self._clock.now_ms()
        if self._keys is not None:
            age_ms = now_ms - self._keys[0]
            if age_ms < (_KEYS_AGAIN_AFTER_MS if fresh else _KEYS_LAST_MS):
                return self._keys[1]
        metadata = await self._discover()
        answer = await self._fetch("GET", _required(metadata, "jwks_uri"), {}, None)
        try:
            keys = KeySet.import_key_set({"keys": answer["keys"]})
        except (JoseError, KeyError, TypeError, ValueError) as error:
            raise ProviderFailed(f"its keys cannot be read: {error}") from None
        self._keys = (now_ms, keys)
        return keys

    async def _fetch(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None
    ) -> JsonObject:
        try:
            async with self._outbound.request(
                method, url, headers={"Accept": "application/json", **headers}, data=data,
                timeout_seconds=_TIMEOUT_S,
            ) as response:  # fmt: skip
                body = await read_bounded(response, _MAX_ANSWER_BYTES)
        except OutboundRefused as error:
            raise ProviderFailed(f"{error}; is it listed in outbound.allow?") from None
        except (aiohttp.ClientError, TimeoutError, ResponseTooLarge, OSError) as error:
            raise ProviderFailed(f"it does not answer: {type(error).__name__}") from None
        if response.status != 200:
            raise ProviderFailed(f"it answered {response.status} to {method}")
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ProviderFailed("its answer is not JSON") from None
        if not isinstance(answer, dict):
            raise ProviderFailed("its answer is not an object")
        return answer


def _required(answer: JsonObject, name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise ProviderFailed(f"its answer lacks {name}")
    return value
