"""What can go wrong when another server is asked; the caller decides what a client is told."""

from __future__ import annotations

from yizhan_server.protocol.canonical_json import JsonObject
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
