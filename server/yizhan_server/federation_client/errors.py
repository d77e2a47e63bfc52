"""What can go wrong when another server is asked; the caller decides what a client is told."""

from __future__ import annotations

import re

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.protocol.identifiers import ServerName


class RemoteFailure(Exception):
    """Another server did not give what it was asked for; its name is `server`."""

    def __init__(self, server: ServerName, message: str) -> None:
        super().__init__(f"{server}: {message}")
        self.server = server
        self.message = message


class PeerNotAllowed(RemoteFailure):
    """This server does not speak with that one; nothing was sent."""

    def __init__(self, server: ServerName) -> None:
        super().__init__(server, "not in federation.allow")


class RemoteUnavailable(RemoteFailure):
    """The server cannot be found or reached, is too slow or overloaded: try again later."""


class RemoteMisbehaved(RemoteFailure):
    """The server answered, but with nothing that the specification lets it answer."""


class RemoteRefused(RemoteFailure):
    """The server answered with an error of the specification; `body` is all of it."""

    def __init__(self, server: ServerName, status: int, body: JsonObject) -> None:
        errcode, error = body.get("errcode"), body.get("error")
        self.status = status
        self.errcode = errcode if isinstance(errcode, str) else "M_UNKNOWN"
        self.error = error if isinstance(error, str) else ""
        self.body = body
        super().__init__(server, f"{status} {self.errcode}")

    @property
    def is_unknown_endpoint(self) -> bool:
        """Whether the server does not know the endpoint, rather than what was asked for.

        Old ones answer that with the bare status.
        """
        if self.status not in (404, 405):
            return False
        return self.errcode == "M_UNRECOGNIZED" or "errcode" not in self.body

    @property
    def is_safe_to_tell(self) -> bool:
        """Whether a client would not take it as said of its session or account."""
        return (
            self.status not in (401, 407)
            and self.errcode not in _OF_ONES_OWN_SERVER
            and _ERRCODE.fullmatch(self.errcode) is not None
        )


_OF_ONES_OWN_SERVER = frozenset(
    (
        "M_APPSERVICE_LOGIN_UNSUPPORTED", "M_CAPTCHA_INVALID", "M_CAPTCHA_NEEDED",
        "M_CONSENT_NOT_GIVEN", "M_EXCLUSIVE", "M_GUEST_ACCESS_FORBIDDEN", "M_MISSING_TOKEN",
        "M_NO_VALID_SESSION", "M_RESOURCE_LIMIT_EXCEEDED", "M_SERVER_NOT_TRUSTED",
        "M_SESSION_EXPIRED", "M_SESSION_NOT_VALIDATED", "M_TERMS_NOT_SIGNED", "M_TOKEN_INCORRECT",
        "M_UNAUTHORIZED", "M_UNKNOWN_DEVICE", "M_UNKNOWN_POS", "M_UNKNOWN_TOKEN",
        "M_USER_DEACTIVATED", "M_USER_LIMIT_EXCEEDED", "M_USER_LOCKED", "M_USER_SUSPENDED",
        "M_WEAK_PASSWORD", "M_WRONG_ROOM_KEYS_VERSION", "ORG_MATRIX_EXPIRED_ACCOUNT",
    )
)  # fmt: skip
"""What a client understands as said of its session, its account or its server."""

_ERRCODE = re.compile(r"[A-Z][A-Z0-9_.]{2,99}")

LONGEST_WAIT_MS = 3_600_000
"""What another server may have a client wait at most."""


def told_to_client(failure: RemoteFailure) -> MatrixError:
    """Return what a client is told whose call another server had to answer.

    A refusal is passed on with its reason unless a client would take it as one of this server:
    another one must not be able to say that somebody is signed out or suspended.
    """
    if isinstance(failure, PeerNotAllowed):
        return Forbidden("Federation with this server is closed")
    if not isinstance(failure, RemoteRefused):
        return MatrixError(502, "M_UNKNOWN", "The other server could not be reached")
    if not failure.is_safe_to_tell:
        return MatrixError(502, "M_UNKNOWN", "The other server refused")
    status = failure.status if 400 <= failure.status < 500 else 502
    version, wait_ms = failure.body.get("room_version"), failure.body.get("retry_after_ms")
    fields: JsonObject = {"room_version": version} if isinstance(version, str) else {}
    if failure.errcode == "M_LIMIT_EXCEEDED" and type(wait_ms) is int:
        fields["retry_after_ms"] = min(max(wait_ms, 0), LONGEST_WAIT_MS)
    return MatrixError(status, failure.errcode, failure.error[:500], **fields)
