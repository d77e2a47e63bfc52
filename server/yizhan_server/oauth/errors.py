"""What an OAuth client is told when something is refused.

Spec: RFC 6749 section 5.2, RFC 7591 section 3.2.2, RFC 8628 section 3.5.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from yizhan_server.protocol.errors import MatrixError


class OAuthError(MatrixError):
    """An error in OAuth's shape: `error` is the code, `error_description` is for developers."""

    def __init__(self, code: str, description: str, *, status: int = 400) -> None:
        super().__init__(status, "M_UNKNOWN", description)
        self.code = code
        self.description = description

    @override
    def body(self) -> dict[str, Any]:
        """Return the JSON body of the answer."""
        return {"error": self.code, "error_description": self.description}


def invalid_grant(description: str) -> OAuthError:
    """Return the error for a code or token that buys nothing."""
    return OAuthError("invalid_grant", description)


def invalid_request(description: str) -> OAuthError:
    """Return the error for a request that lacks something or says it twice."""
    return OAuthError("invalid_request", description)
