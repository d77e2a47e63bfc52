"""The signature that authenticates a request between servers: `Authorization: X-Matrix ...`.

Signed are method, request target as sent (path and query, not decoded), both servers' names and
the JSON body. Nothing in it forbids a second use: whoever sees a request can repeat it to the
same server, which TLS and idempotent endpoints have to bear.

Spec: server-server API, "Request Authentication".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from yizhan_server.protocol.canonical_json import (
    JsonObject,
    NotCanonical,
    check_strict,
    encode_lenient,
    encode_transient,
    parse_exactly,
    parse_json,
)
from yizhan_server.protocol.errors import NotJson
from yizhan_server.protocol.hashes import decode_base64
from yizhan_server.protocol.identifiers import InvalidIdentifier, ServerName, parse_server_name
from yizhan_server.protocol.signing import InvalidSignature, SigningKey, VerifyKey

# A parameter as RFC 9110 writes it. Older servers leave values with a colon unquoted, which the
# specification asks recipients to bear.
_PARAMETER = re.compile(
    r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)       # the name, a token
        [ \t]*=[ \t]*
        (?:"((?:[^"\\]|\\.)*)"              # a quoted value
          |([!#$%&'*+.^_`|~0-9A-Za-z:-]+))  # or a token""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_KEY_ID = re.compile(r"[a-z0-9]+:[!-~]{1,255}", re.ASCII)
_SCHEME = "x-matrix"


class MalformedAuthorization(ValueError):
    """The header is not one that the scheme X-Matrix allows."""


class InvalidServerName(MalformedAuthorization):
    """The header says whose the request is, but that can be no server."""


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """What a request's Authorization header says; nothing of it is proven yet."""

    origin: ServerName
    destination: ServerName | None
    """Whom the request is meant for; None from servers older than v1.3 of the specification."""
    key_id: str
    signature: str


def sign_request(
    *,
    method: str,
    uri: str,
    origin: ServerName,
    destination: ServerName,
    content: JsonObject | None,
    key: SigningKey,
) -> str:
    """Return the value of the Authorization header for one request.

    `uri` is the request target exactly as it will be sent, from `/_matrix` on, with its query.
    `content` is the parsed body, None if there is none. Raises NotCanonical.
    """
    signed = signed_object(
        method=method, uri=uri, origin=origin, destination=destination, content=content
    )
    signature = key.sign(_encode(signed))
    return (
        f'X-Matrix origin="{origin}",destination="{destination}",'
        f'key="{key.key_id}",sig="{signature}"'
    )


def signed_object(
    *,
    method: str,
    uri: str,
    origin: ServerName,
    destination: ServerName | None,
    content: JsonObject | None,
) -> JsonObject:
    """Return the object over whose canonical JSON a request's signature is."""
    signed: JsonObject = {"method": method, "uri": uri, "origin": origin}
    if destination is not None:
        signed["destination"] = destination
    if content is not None:
        signed["content"] = content
    return signed


def parse_authorization(header: str) -> RequestSignature:
    """Return what an Authorization header claims.

    Raises MalformedAuthorization, or InvalidServerName if only the names in it are wrong.
    """
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != _SCHEME:
        raise MalformedAuthorization("the scheme is not X-Matrix")
    parameters = _parse_parameters(rest.strip(" \t"))
    # The specification's list calls it `signature`, its examples and every server `sig`.
    signature = parameters.get("sig", parameters.get("signature"))
    origin = parameters.get("origin")
    key_id = parameters.get("key")
    if origin is None or key_id is None or signature is None:
        raise MalformedAuthorization("origin, key and sig are needed")
    if _KEY_ID.fullmatch(key_id) is None:
        raise MalformedAuthorization("not a key identifier")
    destination = parameters.get("destination")
    try:
        return RequestSignature(
            parse_server_name(origin),
            None if destination is None else parse_server_name(destination),
            key_id,
            signature,
        )
    except InvalidIdentifier as error:
        raise InvalidServerName(str(error)) from None


def check_request_signature(
    claimed: RequestSignature,
    *,
    method: str,
    uri: str,
    destination: ServerName,
    content: JsonObject | None,
    keys: Mapping[str, VerifyKey],
) -> None:
    """Raise InvalidSignature unless the origin signed this very request to `destination`.

    `keys` are the origin's, by key ID, and only those that are valid now: an old key signs events
    but no requests. `uri` is the request target as it arrived, `content` as `parse_content` has it.
    """
    key = _key_of(claimed, destination, keys)
    signed = signed_object(
        method=method,
        uri=uri,
        origin=claimed.origin,
        destination=claimed.destination,
        content=content,
    )
    try:
        encoded = _encode(signed)
    except NotCanonical:
        raise InvalidSignature("nobody can have signed what is not canonical JSON") from None
    key.check(_signature_of(claimed), encoded)


def check_body_signature(
    claimed: RequestSignature,
    *,
    method: str,
    uri: str,
    destination: ServerName,
    body: bytes,
    keys: Mapping[str, VerifyKey],
) -> None:
    """Raise InvalidSignature unless the origin signed a request with this very body.

    Nothing is parsed for that. It fails as well where a server has sent a body in another form
    than the canonical one, which it signed.
    """
    key = _key_of(claimed, destination, keys)
    others = encode_transient(
        signed_object(
            method=method,
            uri=uri,
            origin=claimed.origin,
            destination=claimed.destination,
            content=None,
        )
    )
    # The first of the keys, in their order.
    key.check(_signature_of(claimed), b'{"content":' + body + b"," + others[1:])


def _key_of(
    claimed: RequestSignature, destination: ServerName, keys: Mapping[str, VerifyKey]
) -> VerifyKey:
    if claimed.destination not in (None, destination):
        raise InvalidSignature("the request is meant for another server")
    key = keys.get(claimed.key_id)
    if key is None:
        raise InvalidSignature(f"{claimed.key_id} is no key of {claimed.origin}")
    return key


def _signature_of(claimed: RequestSignature) -> bytes:
    try:
        return decode_base64(claimed.signature)
    except ValueError:
        raise InvalidSignature("a signature is base64") from None


def parse_content(data: bytes) -> JsonObject | None:
    """Return a request's JSON object as its signature covers it, None if there is no body.

    Events of room versions 1 to 5 may hold floats and integers of any size; those are read
    exactly, at ten times the price. Raises NotJson, or NotCanonical if it is no object.
    """
    if not data:
        return None
    try:
        value = parse_json(data)
        check_strict(value)
    except (NotCanonical, NotJson):
        # An integer beyond all floats is no JSON to the faster parser.
        value = parse_exactly(data)
    if not isinstance(value, dict):
        raise NotCanonical("the body must be a JSON object")
    return value


def _encode(signed: JsonObject) -> bytes:
    try:
        check_strict(signed)
    except NotCanonical:
        # Spelt as the first server spells it, which is how peers have signed it.
        return encode_lenient(signed)
    return encode_transient(signed)


def _parse_parameters(text: str) -> dict[str, str]:
    """Return the parameters by lower-case name."""
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        separator = _SEPARATOR.match(text, position)
        if separator is not None:
            position = separator.end()
        elif parameters:
            raise MalformedAuthorization("parameters are separated by commas")
        if position == len(text):
            break
        found = _PARAMETER.match(text, position)
        if found is None:
            raise MalformedAuthorization("not a list of name=value")
        name = found[1].lower()
        if name in parameters:
            raise MalformedAuthorization("a parameter is given twice")
        quoted = found[2]
        parameters[name] = found[3] if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        position = found.end()
    return parameters
