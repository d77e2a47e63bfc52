"""Whom this server speaks with at all: `federation.allow`.

Server names are compared as they are written, since the specification has them case-sensitive.
"""

from __future__ import annotations

from collections.abc import Iterable

from yizhan_server.federation_client.errors import PeerNotAllowed
from yizhan_server.protocol.identifiers import ServerName

_EVERYBODY = "*"


class Peers:
    """The servers that may be spoken with; never this one itself."""

    def __init__(self, own: ServerName, allow: Iterable[str]) -> None:
        self._own = own
        self._listed = frozenset(allow) - {_EVERYBODY, own}
        self._everybody = _EVERYBODY in allow

    @property
    def listed(self) -> frozenset[str]:
        """The servers that the administrator has named."""
        return self._listed

    def is_allowed(self, server: ServerName) -> bool:
        """Tell whether `server` may speak with this one."""
        return server in self._listed or (self._everybody and server != self._own)

    def is_listed(self, server: ServerName) -> bool:
        """Tell whether the administrator has named this very server, rather than everybody."""
        return server in self._listed

    def check(self, server: ServerName) -> None:
        """Raise PeerNotAllowed unless `server` may be spoken with."""
        if not self.is_allowed(server):
            raise PeerNotAllowed(server)
