"""Server names taken apart, and what is connected to in the end.

Spec: appendices, "Server Name"; server-server API, "Resolving server names".
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from yizhan_server.protocol.identifiers import InvalidIdentifier, parse_server_name

DEFAULT_PORT = 8448


@dataclass(frozen=True, slots=True)
class Place:
    """A server name, or what one is delegated to: `hostname[:port]`."""

    text: str
    """As it is written, which is the Host header."""
    host: str
    """Without brackets."""
    port: int | None
    is_literal: bool
    """Whether the host is an IP address."""

    @classmethod
    def parse(cls, text: str) -> Place:
        """Take a server name apart. Raises InvalidIdentifier."""
        parse_server_name(text)
        host, port = _split(text)
        if port is not None and not 0 < port < 65536:
            raise InvalidIdentifier("no such port")
        if host.startswith("["):
            return cls(text, host[1:-1], port, is_literal=True)
        return cls(text, host, port, is_literal=_is_ipv4(host))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request is sent to, and who has to answer there."""

    host: str
    """A name or an address, without brackets."""
    port: int
    host_header: str
    tls_name: str
    """The name, or the address, that the certificate must be for."""


def _split(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    return host, int(port)


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True
