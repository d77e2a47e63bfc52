"""What other servers ask: the server-server API, a module for each family of endpoints.

`make_routes` is how each of them declares its endpoints: they demand a signed request of a server
that is let in (`Auth.SERVER`) unless one says otherwise, which only those may that the
specification leaves open.
"""

from __future__ import annotations

from yizhan_server.api.routing import Auth, Routes


def make_routes() -> Routes:
    """Return a collection of endpoints below `/_matrix/federation`."""
    return Routes("/_matrix/federation", auth=Auth.SERVER)
