"""Which servers a room shuts out: `m.room.server_acl`.

Pure. It is applied to the server that makes a request, and to who sent what it brings, never by
the authorisation rules: an event that a denied server has sent elsewhere stays valid.

Spec: client-server API, "Server Access Control Lists"; server-server API, the section of that
name, which lists the endpoints.
"""

from __future__ import annotations

import re
from typing import Final

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.push_rules.globs import Glob, compile_glob

_PORT = re.compile(r":[0-9]{1,5}$")
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


class ServerAcl:
    """The content of a room's `m.room.server_acl`, ready to be asked many times."""

    __slots__ = ("_allow", "_deny", "_ip_literals")

    def __init__(self, content: JsonObject) -> None:
        self._allow = _globs(content.get("allow"))
        self._deny = _globs(content.get("deny"))
        self._ip_literals = content.get("allow_ip_literals") is not False

    def is_allowed(self, server: ServerName) -> bool:
        """Tell whether `server` may take part in the room. Its port does not count."""
        host = _PORT.sub("", server).lower()
        if not self._ip_literals and (host.startswith("[") or _IPV4.fullmatch(host) is not None):
            return False
        if any(matches(host) for matches in self._deny):
            return False
        return any(matches(host) for matches in self._allow)


def _globs(patterns: object) -> tuple[Glob, ...]:
    # Entries that are no text match nothing, and a list that is none is empty: with `allow`
    # malformed nobody is let in, which every server is to conclude alike.
    if not isinstance(patterns, list):
        return ()
    return tuple(compile_glob(pattern) for pattern in patterns if isinstance(pattern, str))


NO_ACL: Final = ServerAcl({"allow": ["*"]})
"""What holds in a room that has no such event."""
