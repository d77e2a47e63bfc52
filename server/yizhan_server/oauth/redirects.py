"""Where a browser may be sent back to: the one thing that proves a client to be itself.

Pure. A URI is held against the client's own page when it is registered, and compared character
by character when it is used; only the port of a loopback address may differ then.

Spec: client-server API, "Redirect URI validation", "Callback"; RFC 8252 section 7.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import SplitResult, quote, unquote_plus, urlencode, urlsplit, urlunsplit

ResponseMode = Literal["query", "fragment"]

MAX_URI_LENGTH = 2048
_NO_CLIENT = ("about", "blob", "data", "file", "javascript", "vbscript", "view-source")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What RFC 3986 lets a URI consist of. Backslashes, spaces and control characters, which browsers
# mend each in its own way, are not among it.
_URI = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9-]{1,63}")


class InvalidUri(ValueError):
    """The URI is not one that a client of this kind may use; the message says why."""


def _split(uri: str) -> SplitResult:
    if len(uri) > MAX_URI_LENGTH or _URI.fullmatch(uri) is None:
        raise InvalidUri("not a URI, or too long")
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise InvalidUri("not a URI") from None
    if _SCHEME.fullmatch(parts.scheme) is None or not uri.startswith(parts.scheme + ":"):
        raise InvalidUri("the scheme is missing or not in lower case")
    return parts


def check_client_uri(uri: str) -> str:
    """Return the host of a client's own page; InvalidUri unless that is an https page."""
    parts = _split(uri)
    host = parts.hostname
    if parts.scheme != "https" or not host or "@" in parts.netloc:
        raise InvalidUri("must be an https URL without user name")
    if _HOST.fullmatch(host) is None:
        raise InvalidUri("the host is not a name")
    return host


def check_page_uri(uri: str, client_host: str) -> None:
    """Raise InvalidUri unless `uri` is an https page on the client's host or below it."""
    host = check_client_uri(uri)
    if host != client_host and not host.endswith("." + client_host):
        raise InvalidUri(f"must be on {client_host} or a subdomain of it")


def check_redirect_uri(uri: str, client_host: str, application_type: str) -> None:
    """Raise InvalidUri unless a client of this host and type may register `uri`."""
    parts = _split(uri)
    if "#" in uri:
        raise InvalidUri("must not have a fragment")
    if parts.scheme == "https":
        check_page_uri(uri, client_host)
    elif application_type != "native":
        raise InvalidUri("a web client's must be https")
    elif parts.scheme == "http":
        if parts.netloc not in ("localhost", "127.0.0.1", "[::1]"):
            raise InvalidUri("http is for the loopback interface, without a port")
    else:
        reversed_host = ".".join(reversed(client_host.split(".")))
        if parts.scheme != reversed_host and not parts.scheme.startswith(reversed_host + "."):
            raise InvalidUri(f"the scheme must begin with {reversed_host}")
        if uri[len(parts.scheme) + 1 :].startswith("//"):
            raise InvalidUri("a scheme of one's own has no host")


def check_client_url(url: str) -> None:
    """Raise InvalidUri for what no sign-in token may be sent to: code, data, nothing absolute."""
    parts = _split(url)
    if parts.scheme in _NO_CLIENT:
        raise InvalidUri("the scheme is not a client's")
    if parts.scheme in ("http", "https") and (not parts.hostname or "@" in parts.netloc):
        raise InvalidUri("the URL has no host, or has credentials")


def add_login_token(url: str, token: str) -> str:
    """Return `url` with the sign-in token in its query, in place of any that stands there."""
    parts = urlsplit(url)
    kept = [
        pair
        for pair in parts.query.split("&")
        if pair and unquote_plus(pair.partition("=")[0]) != "loginToken"
    ]
    return urlunsplit(parts._replace(query="&".join([*kept, f"loginToken={token}"])))


def is_registered(uri: str, registered: list[str]) -> bool:
    """Tell whether a request may use `uri`: exactly one that was registered."""
    if uri in registered:
        return True
    try:
        parts = _split(uri)
    except InvalidUri:
        return False
    # An app cannot know beforehand which port the system gives it.
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK or parts.port is None:
        return False
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if parts.netloc != f"{host}:{parts.port}":
        return False
    return urlunsplit(parts._replace(netloc=host)) in registered


def add_answer(uri: str, mode: ResponseMode, answer: dict[str, str]) -> str:
    """Return `uri` with the answer in its query or its fragment."""
    encoded = urlencode(answer, quote_via=quote)
    if mode == "fragment":
        return f"{uri}#{encoded}"
    return f"{uri}{'&' if '?' in uri else '?'}{encoded}"


def describe_target(uri: str) -> str:
    """Return what a person is shown of where the browser will go: the host, or the scheme."""
    parts = urlsplit(uri)
    return parts.netloc or f"{parts.scheme}:"


def form_action_source(uri: str) -> str:
    """Return the source expression by which a content security policy admits `uri`."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and "[" not in parts.netloc:
        return f"{parts.scheme}://{parts.netloc}"
    return f"{parts.scheme}:"  # the grammar knows no IPv6 address
