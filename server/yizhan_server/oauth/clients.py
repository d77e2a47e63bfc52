"""Dynamic registration of clients.

Anybody may register, so a registration is worth little: it is limited in rate and size, equal
ones are one, and those without a session are forgotten after a while. What it does establish is
where browsers may be sent back to, see `redirects`.

Spec: client-server API, "Client registration"; RFC 7591.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from yizhan_database import Transaction
from yizhan_server.oauth.errors import OAuthError
from yizhan_server.oauth.redirects import (
    InvalidUri,
    check_client_uri,
    check_page_uri,
    check_redirect_uri,
)
from yizhan_server.storage import oauth as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.clock import Clock

AUTHORIZATION_CODE = "authorization_code"
REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the name of a grant
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
GRANT_TYPES = (AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE)

MAX_REDIRECT_URIS = 20
MAX_NAME_LENGTH = 100


class ClientMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a client's registration."""

    client_uri: str
    client_name: str | None = None
    logo_uri: str | None = None
    tos_uri: str | None = None
    policy_uri: str | None = None
    redirect_uris: list[str] = []
    response_types: list[str] = msgspec.field(default_factory=lambda: ["code"])
    grant_types: list[str] = msgspec.field(default_factory=lambda: [AUTHORIZATION_CODE])
    token_endpoint_auth_method: str = "none"  # noqa: S105 - the name of a method
    application_type: str = "web"


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client."""

    client_id: str
    metadata: ClientMetadata

    @property
    def name(self) -> str:
        """What people are shown: its name, or else the host of its page."""
        return self.metadata.client_name or self.host

    @property
    def host(self) -> str:
        """The host of its page."""
        return check_client_uri(self.metadata.client_uri)

    def may(self, grant_type: str) -> bool:
        """Whether it registered for this grant."""
        return grant_type in self.metadata.grant_types


class Clients:
    """The registered clients."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def register(self, body: dict[str, Any]) -> dict[str, Any]:
        """Register a client and return what was registered, or answer invalid_client_metadata."""
        metadata = check_metadata(body)
        kept: dict[str, Any] = msgspec.to_builtins(metadata)
        encoded = orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)
        client_id = hashlib.sha256(encoded).hexdigest()[:32]
        tx = Transaction()
        storage.upsert_client(tx, client_id, encoded, self._clock.now_ms())
        await self._db.commit(tx)
        # Defaults, too, are part of what was registered.
        complete = {field: getattr(metadata, field) for field in metadata.__struct_fields__}
        return {
            "client_id": client_id,
            "client_id_issued_at": self._clock.now_ms() // 1000,
            **{field: value for field, value in complete.items() if value is not None},
        }

    async def find(self, client_id: str) -> Client | None:
        """Return a client, or None."""
        encoded = await storage.find_client(self._db, client_id)
        return None if encoded is None else parse_client(client_id, encoded)

    async def get(self, client_id: str | None) -> Client:
        """Return a client, or answer invalid_client."""
        client = await self.find(client_id) if client_id else None
        if client is None:
            raise OAuthError("invalid_client", "The client is not registered", status=401)
        return client


def parse_client(client_id: str, encoded: bytes) -> Client:
    """Return a client from what is stored."""
    return Client(client_id, msgspec.json.decode(encoded, type=ClientMetadata))


def check_metadata(body: dict[str, Any]) -> ClientMetadata:
    """Return what we keep of a registration, or answer invalid_client_metadata."""
    try:
        asked = msgspec.convert(body, ClientMetadata)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    if asked.application_type not in ("web", "native"):
        raise _invalid("application_type must be web or native")
    if asked.token_endpoint_auth_method != "none":  # noqa: S105 - the name of a method
        raise _invalid("token_endpoint_auth_method must be none: clients are public here")
    if asked.client_name is not None and (
        len(asked.client_name) > MAX_NAME_LENGTH or not asked.client_name.isprintable()
    ):
        raise _invalid(f"client_name has at most {MAX_NAME_LENGTH} printable characters")
    _check_uris(asked)
    # RFC 7591 and the specification: what is not understood is ignored, and not registered.
    grant_types = [grant for grant in GRANT_TYPES if grant in asked.grant_types]
    response_types = ["code"] if "code" in asked.response_types else []
    if AUTHORIZATION_CODE in grant_types and not (asked.redirect_uris and response_types):
        raise _invalid("The authorization code grant needs redirect_uris and response type code")
    return msgspec.structs.replace(asked, grant_types=grant_types, response_types=response_types)


def _check_uris(asked: ClientMetadata) -> None:
    try:
        host = check_client_uri(asked.client_uri)
    except InvalidUri as error:
        raise _invalid(f"client_uri: {error}") from None
    for field in ("logo_uri", "tos_uri", "policy_uri"):
        uri = getattr(asked, field)
        if uri is not None:
            try:
                check_page_uri(uri, host)
            except InvalidUri as error:
                raise _invalid(f"{field}: {error}") from None
    if len(asked.redirect_uris) > MAX_REDIRECT_URIS:
        raise _invalid(f"There may be {MAX_REDIRECT_URIS} redirect_uris")
    for uri in asked.redirect_uris:
        try:
            check_redirect_uri(uri, host, asked.application_type)
        except InvalidUri as error:
            raise OAuthError("invalid_redirect_uri", f"redirect_uris: {error}") from None


def _invalid(description: str) -> OAuthError:
    return OAuthError("invalid_client_metadata", description)
