"""Matrix identifiers: users, rooms, aliases, events, servers.

Parsing is as permissive as the grammar, because the authorisation rules ask whether something
"is a valid user ID" and every server of a room must answer alike; only names that *we* give out
are held to the strict form (`check_new_localpart`).

Spec: appendices, "Identifier Grammar".
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import NewType

UserID = NewType("UserID", str)
RoomID = NewType("RoomID", str)
EventID = NewType("EventID", str)
RoomAlias = NewType("RoomAlias", str)
ServerName = NewType("ServerName", str)
DeviceID = NewType("DeviceID", str)

MAX_IDENTIFIER_BYTES = 255

_DNS_OR_IPV4 = re.compile(r"[A-Za-z0-9.-]{1,255}(?::[0-9]{1,5})?")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?")
_NEW_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")
# SHA-256 in base64 without padding; version 3 rooms use the standard alphabet, later ones the
# URL-safe one.
_HASHED_EVENT_ID = re.compile(r"\$[A-Za-z0-9+/_-]{43}")
_HASHED_ROOM_ID = re.compile(r"![A-Za-z0-9_-]{43}")


class InvalidIdentifier(ValueError):
    """The string is not an identifier of the kind that was asked for."""


def parse_server_name(value: str) -> ServerName:
    """Return `value` as a server name: a DNS name, an IPv4 or bracketed IPv6 literal, a port."""
    if _DNS_OR_IPV4.fullmatch(value) is not None:
        return ServerName(value)
    literal = _IPV6.fullmatch(value)
    if literal is not None:
        try:
            IPv6Address(literal[1])
        except AddressValueError:
            raise InvalidIdentifier("not an IPv6 address in a server name") from None
        return ServerName(value)
    raise InvalidIdentifier("not a server name")


def parse_user_id(value: str) -> UserID:
    """Return `value` as a user ID, historical localparts (any character, even none) included."""
    _check_localpart_and_domain(value, "@", "user ID")
    return UserID(value)


def parse_room_alias(value: str) -> RoomAlias:
    """Return `value` as a room alias."""
    _check_localpart_and_domain(value, "#", "room alias")
    return RoomAlias(value)


def parse_room_id(value: str) -> RoomID:
    """Return `value` as a room ID: `!opaque:domain`, or from room version 12 on `!hash`."""
    if _HASHED_ROOM_ID.fullmatch(value) is None:
        _check_localpart_and_domain(value, "!", "room ID")
    return RoomID(value)


def parse_event_id(value: str) -> EventID:
    """Return `value` as an event ID: `$opaque:domain`, or from room version 3 on `$hash`."""
    if _HASHED_EVENT_ID.fullmatch(value) is None:
        _check_localpart_and_domain(value, "$", "event ID")
    return EventID(value)


def is_user_id(value: object) -> bool:
    """Tell whether `value` is a string with the grammar of a user ID (historical ones too)."""
    if not isinstance(value, str):
        return False
    try:
        parse_user_id(value)
    except InvalidIdentifier:
        return False
    return True


def check_new_localpart(localpart: str, server_name: ServerName) -> UserID:
    """Return the user ID that a new account would get, or refuse a localpart we must not create.

    Raises InvalidIdentifier. Unlike parsing, this allows only what the grammar of today allows.
    """
    if _NEW_LOCALPART.fullmatch(localpart) is None:
        raise InvalidIdentifier("a user name consists of a-z, 0-9 and ._=-/+")
    user_id = f"@{localpart}:{server_name}"
    if len(user_id) > MAX_IDENTIFIER_BYTES:
        raise InvalidIdentifier("the user ID is longer than 255 bytes")
    return UserID(user_id)


def localpart_of(identifier: str) -> str:
    """Return what stands between the sigil and the first colon."""
    return identifier[1:].partition(":")[0]


def server_name_of(identifier: str) -> ServerName | None:
    """Return the domain of an identifier; None where the identifier has none (`!hash`, `$hash`)."""
    _, colon, domain = identifier.partition(":")
    return ServerName(domain) if colon else None


def _check_localpart_and_domain(value: str, sigil: str, kind: str) -> None:
    if not value.startswith(sigil):
        raise InvalidIdentifier(f"a {kind} starts with {sigil}")
    localpart, colon, domain = value.partition(":")
    if not colon:
        raise InvalidIdentifier(f"a {kind} names its server after a colon")
    if "\0" in localpart:
        raise InvalidIdentifier(f"a {kind} holds no NUL")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise InvalidIdentifier(f"a {kind} holds no lone surrogate") from None
    if size > MAX_IDENTIFIER_BYTES:
        raise InvalidIdentifier(f"a {kind} is not longer than 255 bytes")
    parse_server_name(domain)
