"""Whom a client names in signing in and confirming.

Spec: client-server API, "Identifier types".
"""

from __future__ import annotations

from yizhan_server.protocol.errors import BadJson, Forbidden


def named_user(identifier: object, user: object) -> str | None:
    """Return whom a client names by an identifier object or, as older ones do, by `user`.

    None when it names nobody; M_FORBIDDEN for third-party identifiers, which mean nobody here.
    """
    if isinstance(identifier, dict):
        if identifier.get("type") != "m.id.user":
            raise Forbidden("Only user names are known here")
        user = identifier.get("user")
        if not isinstance(user, str):
            raise BadJson("'identifier.user' must be a string")
    elif identifier is not None:
        raise BadJson("'identifier' must be an object")
    if user is not None and not isinstance(user, str):
        raise BadJson("'user' must be a string")
    return user
