"""Outgoing HTTP to addresses that strangers choose: public hosts only, decided at connect time.

A pusher's URL, a previewed link, a Web Push endpoint: each is text from a user, and the
program that fetches it stands inside the organisation's network. Here is the one gate. It is
asked three times, and each time closes a different way around it:

1. the URL, before anything happens: scheme, credentials, literal addresses;
2. the answer of the name server: names (and decimal or octal spellings, which resolvers take
   for names) that lead to a private address are dropped;
3. the socket, directly before it connects: whatever the first two missed meets the very
   address that the kernel would be given, so that no second look-up can change it.

Redirects are never followed, since a caller that wants to follow one must pass this gate
again; bodies are never decompressed, so that a small answer stays small; no cookies, no proxy
from the environment. `outbound.allow` lists what is reached although it is private.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from ssl import SSLContext
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override
from yarl import URL

from yizhan_config.errors import ConfigurationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Public by the registries, yet answered by the network that we stand in.
_LOCAL_IN_PUBLIC_SPACE = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # a cloud's metadata and name service
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, withdrawn by RFC 7526
)


class OutboundRefused(OSError):
    """The target is not public and not listed in `outbound.allow`; nothing was sent to it."""


class ResponseTooLarge(Exception):
    """The body is larger than the caller's bound; the connection is closed."""


def is_public(address: Address) -> bool:
    """Whether `address` is globally reachable unicast, also looking inside IPv4-in-IPv6 forms."""
    if isinstance(address, ipaddress.IPv4Address):
        return (
            address.is_global
            and not address.is_multicast
            and not address.is_reserved
            and not any(address in network for network in _LOCAL_IN_PUBLIC_SPACE)
        )
    # Mapped and translated addresses end at the IPv4 host that they carry.
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    # 6to4 and Teredo tunnel to an address of the sender's choice, and nobody needs them.
    tunnelled = address.sixtofour is not None or address.teredo is not None
    return address.is_global and address in _GLOBAL_UNICAST and not tunnelled


@dataclass(frozen=True)
class AllowList:
    """The entries of `outbound.allow`, parsed: `(what, port)`, where port None means any port."""

    names: tuple[tuple[str, int | None], ...] = ()
    networks: tuple[tuple[Network, int | None], ...] = ()

    @classmethod
    def parse(cls, entries: Sequence[str], key: str = "outbound.allow") -> Self:
        """Read `host`, `*.domain`, an address or a network, each with an optional `:port`.

        IPv6 addresses with a port stand in brackets. Raises ConfigurationError, about `key`.
        """
        names: list[tuple[str, int | None]] = []
        networks: list[tuple[Network, int | None]] = []
        for entry in entries:
            host, port = _split_port(entry)
            try:
                networks.append((ipaddress.ip_network(host, strict=False), port))
            except ValueError:
                names.append((_parse_name(entry, host, key), port))
        return cls(tuple(names), tuple(networks))

    def permits_name(self, host: str, port: int) -> bool:
        """Whether `host`, as it stands in a URL, is listed for `port`."""
        host = host.lower().rstrip(".")
        return any(
            host == name or (name.startswith("*.") and host.endswith(name[1:]))
            for name, listed_port in self.names
            if listed_port in {None, port}
        )

    def permits_address(self, address: Address, port: int) -> bool:
        """Whether `address` lies in a listed network, for `port`."""
        address = getattr(address, "ipv4_mapped", None) or address
        return any(
            address in network
            for network, listed_port in self.networks
            if listed_port in {None, port}
        )


def _split_port(entry: str) -> tuple[str, int | None]:
    host, colon, port = entry.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if colon and port.isdecimal() and (bracketed or ":" not in host) and int(port) < 65536:
        return host.strip("[]"), int(port)
    return entry.strip().strip("[]"), None


def _parse_name(entry: str, host: str, key: str) -> str:
    wildcard, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    try:
        ascii_name = URL.build(scheme="https", host=name).raw_host if name else None
    except ValueError:
        ascii_name = None
    if not ascii_name or any(character in name for character in "*/@: "):
        raise ConfigurationError(
            f"{key} 中的 {entry!r} 不是主机名、地址或网段；"
            '请写成 "push.example.org"、"10.0.0.5:8443" 或 "10.1.0.0/16"。',
            f"{entry!r} in {key} is not a host, an address or a network; "
            'write "push.example.org", "10.0.0.5:8443" or "10.1.0.0/16".',
            key=key,
        )
    return wildcard + ascii_name.lower().rstrip(".")


@dataclass(frozen=True)
class _Gate:
    allow: AllowList

    def admits(self, address: str, port: int) -> bool:
        parsed = _parse_address(address)
        if parsed is None:
            return False
        return is_public(parsed) or self.allow.permits_address(parsed, port)

    def open_socket(self, address_info: aiohttp.AddrInfoType) -> socket.socket:
        """Make the socket that is about to connect, unless its destination is refused."""
        family, kind, protocol, _, destination = address_info
        if not self.admits(str(destination[0]), int(destination[1])):
            raise OutboundRefused("the address is not public")
        return socket.socket(family=family, type=kind, proto=protocol)


@lru_cache(1024)
def _parse_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class SystemResolver(AbstractResolver):
    """Asks the system's resolver in threads of its own.

    The loop's own getaddrinfo shares few threads (uvloop: four) with everything else, so that a
    handful of names whose servers never answer would stop every look-up of the process. Of these
    threads there are more than names that strangers can have looked up at once; they are started
    when they are needed.
    """

    def __init__(self, threads: int = 256) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="name-lookup")

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in found
        ]

    @override
    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _GuardedResolver(AbstractResolver):
    """Drops the addresses that the gate refuses; a name that has no other is refused."""

    def __init__(self, gate: _Gate, inner: AbstractResolver) -> None:
        self._gate = gate
        self._inner = inner

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            found = await self._inner.resolve(host, port, family)
        except UnicodeError:
            # Not a name at all (an empty or overlong label); the codec's error is no OSError.
            raise OutboundRefused("the host is not a name") from None
        admitted = [result for result in found if self._gate.admits(result["host"], port)]
        if found and not admitted:
            raise OutboundRefused("the name leads to no public address")
        return admitted

    @override
    async def close(self) -> None:
        await self._inner.close()


class OutboundSession:
    """An HTTP client for addresses that strangers choose. Close it, or use `async with`."""

    def __init__(
        self,
        allow: AllowList,
        resolver: AbstractResolver,
        guarded: aiohttp.ClientSession,
        listed: aiohttp.ClientSession,
    ) -> None:
        self._allow = allow
        self._resolver = resolver
        self._guarded = guarded
        self._listed = listed

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str | URL,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        timeout_seconds: float | None = None,
        tls_name: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, following no redirect; `timeout_seconds` bounds all of it.

        `tls_name` is whose certificate the target must show, if not that of the URL's host.
        Raises OutboundRefused; TimeoutError and aiohttp.ClientError as aiohttp does. Read the
        body with `read_bounded`.
        """
        target = self.check_url(url)
        listed = self._allow.permits_name(target.raw_host or "", target.port or 0)
        session = self._listed if listed else self._guarded
        limit = session.timeout
        if timeout_seconds:
            limit = aiohttp.ClientTimeout(timeout_seconds, sock_connect=limit.sock_connect)
        try:
            response = await session.request(
                method,
                target,
                headers=headers,
                data=data,
                timeout=limit,
                allow_redirects=False,
                server_hostname=tls_name,
            )
        except aiohttp.InvalidURL:
            # aiohttp's own last look: "127.1" and other spellings of addresses.
            raise OutboundRefused("the host is not a name") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, OutboundRefused):
                raise error.os_error from None
            raise
        async with response:
            yield response

    def check_url(self, url: str | URL) -> URL:
        """Parse `url` and refuse what needs no look-up to be refused (OutboundRefused).

        https only, unless `outbound.allow` lists the very host or address in the URL.
        """
        try:
            target = URL(url)
            host, port = target.raw_host, target.port
        except (ValueError, IndexError):
            # IndexError is yarl's for "https://[]@"; found by the property test.
            raise OutboundRefused("the URL is malformed") from None
        if not host or port is None or target.user is not None or target.password is not None:
            raise OutboundRefused("the URL has no host, or has credentials")
        address = _parse_address(host)
        listed = self._allow.permits_name(host, port) or (
            address is not None and self._allow.permits_address(address, port)
        )
        if target.scheme != "https" and not (listed and target.scheme == "http"):
            raise OutboundRefused("the URL is not https")
        if address is not None and not listed and not is_public(address):
            raise OutboundRefused("the address is not public")
        return target

    async def close(self) -> None:
        """Close all connections, and the resolver."""
        await self._guarded.close()
        await self._listed.close()
        await self._resolver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def outbound_session(
    allow: Sequence[str] = (),
    *,
    timeout_seconds: float = 30,
    connect_timeout_seconds: float | None = None,
    connections: int = 100,
    connections_per_host: int = 10,
    resolver: AbstractResolver | None = None,
    ssl_context: SSLContext | None = None,
    key: str = "outbound.allow",
) -> OutboundSession:
    """Make a session that reaches public addresses and those in `allow` (AllowList.parse).

    Must be called inside the running loop. `key` is the setting that `allow` comes from.
    `timeout_seconds` is the default for a request, waiting for a free connection included,
    `connect_timeout_seconds` for reaching an address.
    A request beyond `connections_per_host` waits without holding one of the others, so one slow
    host cannot starve the rest.
    """
    allow_list = AllowList.parse(allow, key)
    gate = _Gate(allow_list)
    inner = resolver or SystemResolver()

    def session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(timeout_seconds, sock_connect=connect_timeout_seconds),
            headers={"User-Agent": "Yizhan", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    def connector(
        resolver: AbstractResolver, factory: aiohttp.SocketFactoryType | None
    ) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(
            resolver=resolver,
            socket_factory=factory,
            limit=connections,
            limit_per_host=connections_per_host,
            ttl_dns_cache=60,
            ssl=ssl_context or True,
        )

    # Two connectors, because a socket no longer knows the name that it was opened for: names
    # that the administrator listed go through one without a gate.
    return OutboundSession(
        allow_list,
        inner,
        guarded=session(connector(_GuardedResolver(gate, inner), gate.open_socket)),
        listed=session(connector(inner, None)),
    )


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read the body, of at most `limit` bytes; raises ResponseTooLarge, closing the connection."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            raise ResponseTooLarge
    return bytes(body)
