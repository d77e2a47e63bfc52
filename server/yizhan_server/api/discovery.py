"""What this server is and can do: versions, capabilities, well-known files, TURN.

Spec: client-server API, "Server Discovery", "Capabilities negotiation", "Voice over IP".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from yizhan_server.api.routing import Auth, Call, JsonObject, Routes
from yizhan_server.protocol.errors import NotFound
from yizhan_server.protocol.room_version import ROOM_VERSIONS

if TYPE_CHECKING:
    from yizhan_config.settings import Settings
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import UserID

routes = Routes()
well_known_routes = Routes(prefix="/.well-known/matrix")

VERSIONS: Final = ("r0.6.1", *(f"v1.{minor}" for minor in range(1, 20)))
"""Spec versions whose features, as far as clients ask for them by version, work here."""

_ADMINISTRATOR: Final = {"role": "m.role.admin"}

UNSTABLE_FEATURES: Final = {
    "org.matrix.e2e_cross_signing": True,
    "org.matrix.msc4108": True,
    "org.matrix.msc3814": True,
    "org.matrix.msc4140": True,
    "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
    "org.matrix.simplified_msc3575": True,
    "uk.tcpip.msc4133.stable": True,
}
"""What clients look for by these names and finds here under stable paths."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What is answered about this server, computed once."""

    client: JsonObject | None
    """The client well-known file, None without a public address."""
    server: JsonObject | None
    support: JsonObject | None
    policy_server: JsonObject | None
    capabilities: JsonObject


def make_discovery(settings: Settings) -> Discovery:
    """Derive the answers from the settings."""
    client_url = settings.public.client_baseurl
    if client_url.endswith(":0"):
        client_url = ""  # on a port that the system chose, there is no address to tell
    federation_server = settings.public.federation_server
    policy_key = settings.public.policy_server_key
    return Discovery(
        client={"m.homeserver": {"base_url": client_url}} if client_url else None,
        server={"m.server": federation_server} if federation_server else None,
        support=_support(settings.public.support_contacts, settings.public.support_page),
        policy_server={"public_keys": {"ed25519": policy_key}} if policy_key else None,
        capabilities={
            "m.change_password": {"enabled": True},
            "m.room_versions": {
                "default": settings.rooms.default_version,
                "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
            },
            "m.profile_fields": {"enabled": True},
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": True},
            "m.3pid_changes": {"enabled": bool(settings.email.host)},
            "m.get_login_token": {"enabled": True},
            "m.forget_forced_upon_leave": {"enabled": False},
        },
    )


def _support(contacts: tuple[str, ...], page: str) -> JsonObject | None:
    answer: JsonObject = {}
    if contacts:
        answer["contacts"] = [
            {"matrix_id" if contact.startswith("@") else "email_address": contact} | _ADMINISTRATOR
            for contact in contacts
        ]
    if page:
        answer["support_page"] = page
    return answer or None


class Turn:
    """Credentials for the TURN server, which shares a secret with us and knows no accounts."""

    def __init__(
        self, clock: Clock, uris: tuple[str, ...], secret: str | None, lifetime_seconds: int
    ) -> None:
        self._clock = clock
        self._uris = uris
        self._secret = secret
        self._lifetime_seconds = lifetime_seconds

    def get(self, user_id: UserID) -> JsonObject:
        """Return credentials for one user, {} when there is no TURN server."""
        if not self._uris or self._secret is None:
            return {}
        username = f"{self._clock.now_ms() // 1000 + self._lifetime_seconds}:{user_id}"
        # HMAC-SHA1 is what TURN servers' "REST API" authentication computes.
        mac = hmac.new(self._secret.encode(), username.encode(), hashlib.sha1)
        return {
            "username": username,
            "password": base64.b64encode(mac.digest()).decode(),
            "uris": list(self._uris),
            "ttl": self._lifetime_seconds,
        }


@routes.get("/versions", auth=Auth.NONE)
async def get_versions(call: Call[None]) -> JsonObject:
    """List the versions of the specification that this server keeps."""
    return {"versions": list(VERSIONS), "unstable_features": UNSTABLE_FEATURES}


@routes.get("/v3/capabilities")
async def get_capabilities(call: Call[None]) -> JsonObject:
    """Tell what is optional and offered."""
    capabilities = call.services.discovery.capabilities
    if call.requester.is_admin:
        capabilities = capabilities | {"m.account_management": {"lock": True, "suspend": True}}
    return {"capabilities": capabilities}


@routes.get("/v3/voip/turnServer", gives_credential=True)
async def get_turn_server(call: Call[None]) -> JsonObject:
    """Give credentials for the TURN server."""
    return call.services.turn.get(call.requester.user_id)


@well_known_routes.get("/client", auth=Auth.NONE)
async def get_client_well_known(call: Call[None]) -> JsonObject:
    """Tell clients where this server is."""
    return _found(call.services.discovery.client)


@well_known_routes.get("/server", auth=Auth.NONE)
async def get_server_well_known(call: Call[None]) -> JsonObject:
    """Tell other servers where this server is."""
    return _found(call.services.discovery.server)


@well_known_routes.get("/support", auth=Auth.NONE)
async def get_support_well_known(call: Call[None]) -> JsonObject:
    """Tell people whom to ask."""
    return _found(call.services.discovery.support)


@well_known_routes.get("/policy_server", auth=Auth.NONE)
async def get_policy_server_well_known(call: Call[None]) -> JsonObject:
    """Tell rooms the key of the policy server of this name."""
    return _found(call.services.discovery.policy_server)


def _found(answer: dict[str, Any] | None) -> JsonObject:
    if answer is None:
        raise NotFound("Not configured")
    return answer
