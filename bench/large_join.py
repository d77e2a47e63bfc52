"""What the join of a large room costs: `python -m bench.large_join [--members 10000]`.

The room is told by a peer that is no program of its own, so that nothing but the server that joins
is measured: its CPU, its peak of memory, and how long somebody else waits at most meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from bench.processes import cpu_s
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.homeserver import Person
from yizhan_testing.large_room import LargeRoom
from yizhan_testing.mortal_pair import mortal_homeserver
from yizhan_testing.peer import open_peer


def peak_mib(pid: int) -> int:
    """Return the most memory that the process has had at a time."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("the kernel does not tell")


async def longest_wait_s(person: Person, until: asyncio.Event) -> float:
    """Ask something small again and again; returns how long the slowest answer took."""
    longest = 0.0
    while not until.is_set():
        began = time.perf_counter()
        await person.get("/v3/account/whoami")
        longest = max(longest, time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return longest


async def measure(folder: Path, members: int, version: str) -> None:
    authority = CertificateAuthority(folder)
    async with open_peer(authority) as peer:
        large = await asyncio.to_thread(LargeRoom, peer, ROOM_VERSIONS[version], members)
        server = mortal_homeserver(folder / "server", authority, [peer.name], [])
        try:
            await server.resume()
            assert server.process is not None
            pid = server.process.pid
            person = await server.person("somebody")
            await person.syncs()
            large.lets_in(person.user_id)
            cpu, peak, began, over = cpu_s(pid), peak_mib(pid), time.perf_counter(), asyncio.Event()
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(longest_wait_s(person, over))
                path = f"/v3/join/{quote(str(large.room_id), safe='')}"
                await person.call("POST", path, {}, params={"via": peer.name})
                over.set()
            print(
                f"{members} members: {time.perf_counter() - began:.1f} s,"
                f" {cpu_s(pid) - cpu:.2f} s CPU, peak {peak} -> {peak_mib(pid)} MiB,"
                f" others waited at most {waiting.result() * 1000:.0f} ms"
            )
        finally:
            await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.large_join", description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--version", default="12", help="of the room")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        asyncio.run(measure(Path(folder), arguments.members, arguments.version))


if __name__ == "__main__":
    main()
