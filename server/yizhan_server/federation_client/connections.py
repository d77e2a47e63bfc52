"""The HTTP connections to other servers: two pools, with one idea of TLS.

A server that the administrator has named may be at a private address, as departments of one
institution are to each other; one that is let in with everybody else may not, or federation would
be a way to look into the internal network. Loopback and link-local addresses are private to this
machine and have to be listed in `federation.private_addresses` in either case.

Spec: server-server API, "TLS".
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver

from yizhan_config.authorities import trusting_context
from yizhan_config.outbound import OutboundSession, outbound_session
from yizhan_config.settings import Federation

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
CONNECTIONS, CONNECTIONS_PER_SERVER = 500, 10

_PRIVATE_NETWORKS = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Connections:
    """The two pools."""

    to_listed: OutboundSession
    to_others: OutboundSession


@asynccontextmanager
async def open_connections(
    settings: Federation, resolver: AbstractResolver | None = None
) -> AsyncIterator[Connections]:
    """Open the pools; closes their connections at the end. Raises ConfigurationError."""
    context = make_tls_context(settings)

    def session(*private: str) -> OutboundSession:
        return outbound_session(
            [*settings.private_addresses, *private],
            timeout_seconds=settings.timeout_seconds,
            connect_timeout_seconds=CONNECT_SECONDS,
            connections=CONNECTIONS,
            connections_per_host=CONNECTIONS_PER_SERVER,
            resolver=resolver,
            ssl_context=context,
            key="federation.private_addresses",
        )

    async with session(*_PRIVATE_NETWORKS) as to_listed, session() as to_others:
        yield Connections(to_listed, to_others)


def make_tls_context(settings: Federation) -> ssl.SSLContext:
    """Return what other servers' certificates are checked with. Raises ConfigurationError."""
    if not settings.allow:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nobody is asked, so nobody is trusted
    context = trusting_context(settings.trusted_ca_files, "federation.trusted_ca_files")
    if not settings.verify_tls:
        log.warning("other servers' certificates are not checked: federation.verify_tls is false")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
