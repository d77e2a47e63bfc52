"""A slow, distant and lossy line between two network namespaces.

Each namespace has one end of it, a TUN device. Its rate is the kernel's token bucket (`tc tbf`, on
both ends as they send), its loss nftables' random numbers (on both ends as they receive), and the
distance is ours: the relay between the two devices holds each packet back for a while, since not
every kernel has netem. So TCP, TLS and their retransmissions meet what they would meet outside.

Needs root, `ip`, `tc` and `nft`, and a kernel with TUN, the token bucket and nftables; `lacking`
says what is missing.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import aiohttp

from yizhan_testing.homeserver import Homeserver, configure

CLIENT_ADDRESS, SERVER_ADDRESS = "10.77.7.1", "10.77.7.2"
MTU = 1500
QUEUE_BYTES = 16_000
"""What can wait before the slow part of the line: two seconds' worth; the rest is dropped."""

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_CLONE_NEWNET = 0x40000000
_numbers = count(1)


@dataclass(frozen=True)
class Line:
    """How poor it is. `delay_s` is one way."""

    rate: str = "64kbit"
    delay_s: float = 0.4
    loss_percent: int = 5


def lacking() -> str | None:
    """Return why there can be no such line here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "tc", "nft") if shutil.which(program) is None]
    if missing:
        return f"missing: {', '.join(missing)} (iproute2, nftables)"
    name = f"yztry{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        try:
            _run("ip", "-n", name, "tuntap", "add", "dev", "try0", "mode", "tun")
            _shape(name, "try0", Line())
        finally:
            _run("ip", "netns", "del", name)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode().strip() or f"status {error.returncode}"
        return f"no such line here: {' '.join(error.cmd[:3])}: {said.splitlines()[0]}"
    return None


def _run(*words: str, stdin: str = "") -> None:
    subprocess.run(words, input=stdin.encode(), check=True, capture_output=True)


def _shape(namespace: str, device: str, line: Line) -> None:
    bucket = f"rate {line.rate} burst {MTU + 100} limit {QUEUE_BYTES}".split()
    _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", *bucket)
    rules = f"""
        table inet poor {{
            chain input {{
                type filter hook input priority 0;
                iifname "{device}" numgen random mod 100 < {line.loss_percent} counter drop;
            }}
        }}
    """
    _run("ip", "netns", "exec", namespace, "nft", "-f", "-", stdin=rules)


def _open_tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(
        descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    )
    return descriptor


class PoorNetwork:
    """Two namespaces and the line between them, fast until `worsen` is called."""

    def __init__(self) -> None:
        number = f"{os.getpid()}x{next(_numbers)}"
        self.client = f"yzc{number}"
        self.server = f"yzs{number}"
        self.bytes_to_client = 0
        self.bytes_to_server = 0
        self._delay_s = 0.0
        self._descriptors: dict[str, int] = {}

    def _open(self) -> None:
        for namespace, address, other in (
            (self.client, CLIENT_ADDRESS, SERVER_ADDRESS),
            (self.server, SERVER_ADDRESS, CLIENT_ADDRESS),
        ):
            _run("ip", "netns", "add", namespace)
            device = namespace[:15]
            self._descriptors[namespace] = _open_tun(device)
            _run("ip", "link", "set", "dev", device, "netns", namespace)
            _run("ip", "-n", namespace, "link", "set", "dev", "lo", "up")
            _run("ip", "-n", namespace, "addr", "add", address, "peer", other, "dev", device)
            _run("ip", "-n", namespace, "link", "set", "dev", device, "mtu", str(MTU), "up")
        loop = asyncio.get_running_loop()
        client, server = self._descriptors[self.client], self._descriptors[self.server]
        loop.add_reader(client, self._carry, client, server)
        loop.add_reader(server, self._carry, server, client)

    def _carry(self, source: int, target: int) -> None:
        packet = os.read(source, MTU + 100)
        if target == self._descriptors[self.client]:
            self.bytes_to_client += len(packet)
        else:
            self.bytes_to_server += len(packet)
        asyncio.get_running_loop().call_later(self._delay_s, self._deliver, target, packet)

    def _deliver(self, target: int, packet: bytes) -> None:
        if target in self._descriptors.values():
            os.write(target, packet)

    def worsen(self, line: Line) -> None:
        """From now on, the line is as poor as that."""
        self._delay_s = line.delay_s
        for namespace in (self.client, self.server):
            _shape(namespace, namespace[:15], line)

    def inside(self, namespace: str) -> tuple[str, ...]:
        """Return the words before a command that is to run in a namespace."""
        return ("ip", "netns", "exec", namespace)

    def session(self, namespace: str) -> aiohttp.ClientSession:
        """Return a session whose connections begin in a namespace."""
        connector = aiohttp.TCPConnector(socket_factory=partial(_socket_inside, namespace))
        return aiohttp.ClientSession(connector=connector)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for descriptor in self._descriptors.values():
            loop.remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()
        for namespace in (self.client, self.server):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _socket_inside(namespace: str, info: tuple[int, int, int, str, object]) -> socket.socket:
    """Return a socket of a namespace, to which it belongs for good."""
    # Python 3.12 has os.setns; nothing else of this process runs before it is back.
    setns: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).setns
    with (
        Path("/proc/self/ns/net").open("rb") as home,
        Path("/run/netns", namespace).open("rb") as there,
    ):
        if setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the namespace")
        try:
            return socket.socket(*info[:3])
        finally:
            setns(home.fileno(), _CLONE_NEWNET)


@asynccontextmanager
async def poor_network() -> AsyncIterator[PoorNetwork]:
    """Make the namespaces; they end with the block."""
    network = PoorNetwork()
    try:
        network._open()
        yield network
    finally:
        network.close()


async def homeserver_within(network: PoorNetwork, folder: Path, **settings: str) -> Homeserver:
    """Start the program in the server's namespace; its `http` reaches it from there."""
    configure(folder, **settings)
    server = Homeserver(folder)
    await server.http.close()
    server.http = network.session(network.server)
    server.before = network.inside(network.server)
    await server.resume()
    return server
