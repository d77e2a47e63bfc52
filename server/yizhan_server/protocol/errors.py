"""The errors of the protocol: what a client or a peer is told, and why an event was refused.

A `MatrixError` carries everything that the HTTP layer needs, so that a service states the failure
once and no handler translates it.

Spec: client-server API, "Standard error response".
"""

from typing import Any


class MatrixError(Exception):
    """A failure with a Matrix error code; `fields` are further keys of the answer's body."""

    def __init__(self, status: int, errcode: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.errcode = errcode
        self.message = message
        self.fields = fields

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the answer."""
        return {**self.fields, "errcode": self.errcode, "error": self.message}


class BadJson(MatrixError):
    """The JSON is well formed, but not what this endpoint can accept."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(400, "M_BAD_JSON", message, **fields)


class NotJson(MatrixError):
    """The body is not JSON at all."""

    def __init__(self, message: str = "The body is not valid JSON.", **fields: Any) -> None:
        super().__init__(400, "M_NOT_JSON", message, **fields)


class InvalidParam(MatrixError):
    """A parameter has a value that cannot be accepted."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(400, "M_INVALID_PARAM", message, **fields)


class MissingParam(MatrixError):
    """A required parameter is absent."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(400, "M_MISSING_PARAM", message, **fields)


class UnknownPos(MatrixError):
    """The position of a sliding sync is not (or no longer) known; the client begins anew."""

    def __init__(self, message: str = "Unknown position.", **fields: Any) -> None:
        super().__init__(400, "M_UNKNOWN_POS", message, **fields)


class UnsupportedRoomVersion(MatrixError):
    """The room version asked for is not one of ours."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(400, "M_UNSUPPORTED_ROOM_VERSION", message, **fields)


class MissingToken(MatrixError):
    """The request carries no access token."""

    def __init__(self, message: str = "An access token is needed.", **fields: Any) -> None:
        super().__init__(401, "M_MISSING_TOKEN", message, **fields)


class UnknownToken(MatrixError):
    """The access token is not (or no longer) valid.

    `soft_logout` tells the client to keep its keys and sign in again as the same device.
    """

    def __init__(
        self,
        message: str = "The access token is not valid.",
        *,
        soft_logout: bool = False,
        **fields: Any,
    ) -> None:
        super().__init__(401, "M_UNKNOWN_TOKEN", message, soft_logout=soft_logout, **fields)


class Forbidden(MatrixError):
    """The requester may not do this."""

    def __init__(self, message: str = "You may not do this.", **fields: Any) -> None:
        super().__init__(403, "M_FORBIDDEN", message, **fields)


class NotFound(MatrixError):
    """There is nothing here, or nothing that the requester may know of."""

    def __init__(self, message: str = "Not found.", **fields: Any) -> None:
        super().__init__(404, "M_NOT_FOUND", message, **fields)


class Unrecognized(MatrixError):
    """The endpoint is unknown (404), or known but not by this method (405)."""

    def __init__(
        self, message: str = "Unrecognized request.", *, status: int = 404, **fields: Any
    ) -> None:
        super().__init__(status, "M_UNRECOGNIZED", message, **fields)


class TooLarge(MatrixError):
    """The body, file or event exceeds a size limit."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(413, "M_TOO_LARGE", message, **fields)


class LimitExceeded(MatrixError):
    """The requester is too fast; `retry_after_ms` says when to come back."""

    def __init__(self, retry_after_ms: int, message: str = "Too many requests.") -> None:
        super().__init__(429, "M_LIMIT_EXCEEDED", message, retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class AuthRuleRejection(Exception):
    """An event breaks an authorisation rule; `rule` is a stable dotted name of that rule."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule = rule
        self.reason = reason
