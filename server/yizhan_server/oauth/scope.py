"""Scopes: full access to the client-server API, for one device whose id the client chooses.

Spec: client-server API, "Scope"; the names before they were stable are those of MSC2967.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from yizhan_server.oauth.errors import OAuthError
from yizhan_server.protocol.identifiers import DeviceID

_API = ("urn:matrix:client:api:*", "urn:matrix:org.matrix.msc2967.client:api:*")
_DEVICE = ("urn:matrix:client:device:", "urn:matrix:org.matrix.msc2967.client:device:")

# The characters of RFC 6749 section 3.3. Some clients take a key in base64 as their id.
_DEVICE_ID = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is granted."""

    text: str
    """The tokens that we understand, in the client's own words."""
    device_id: DeviceID


def parse_scope(text: str) -> Scope:
    """Return what a client asks for, or answer invalid_scope; tokens we do not know are ignored."""
    tokens = list(dict.fromkeys(text.split(" ")))
    api = [token for token in tokens if token in _API]
    devices = [
        (token, token.removeprefix(prefix))
        for token in tokens
        for prefix in _DEVICE
        if token.startswith(prefix)
    ]
    if not api:
        raise OAuthError("invalid_scope", f"The scope must contain {_API[0]}")
    if len({device_id for _, device_id in devices}) != 1:
        raise OAuthError("invalid_scope", f"The scope must contain exactly one {_DEVICE[0]}ID")
    device_id = devices[0][1]
    if _DEVICE_ID.fullmatch(device_id) is None:
        raise OAuthError("invalid_scope", "The device id is empty, too long or not printable")
    granted = [*api, *(token for token, _ in devices)]
    return Scope(" ".join(granted), DeviceID(device_id))
