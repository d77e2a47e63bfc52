"""CPU time and memory of a server with all its child processes, from the kernel."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_QUIET_S = 0.15
_QUIET_CPU_S = 0.002


def tree_of(root: int) -> list[int]:
    """Return `root` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = _stat(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    # The second field is the name in brackets, which may itself hold spaces and brackets.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(root: int) -> float:
    """Return user and system time of the whole tree so far, ended children included.

    The kernel's clock of a process counts in nanoseconds, where /proc/PID/stat has ticks of 10 ms;
    only children that have ended are counted in ticks.
    """
    total = 0.0
    for pid in tree_of(root):
        try:
            # The clock id that clock_getcpuclockid(3) makes of a process id.
            total += time.clock_gettime((~pid << 3) | 2)
            fields = _stat(pid)
        except (OSError, ValueError):  # it has just ended; its parent has its time now
            continue
        total += (int(fields[13]) + int(fields[14])) * _TICK_S
    return total


def pss_mib(root: int) -> float:
    """Return the proportional share of memory of the whole tree."""
    total_kib = 0
    for pid in tree_of(root):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total_kib += int(line.split()[1])
    return total_kib / 1024


async def settle(root: int, at_most_s: float = 5) -> None:
    """Return when the tree has come to rest: everything asked of it is done, or waits."""
    end = time.monotonic() + at_most_s
    before = cpu_s(root)
    while time.monotonic() < end:
        await asyncio.sleep(_QUIET_S)
        now = cpu_s(root)
        if now - before < _QUIET_CPU_S:
            return
        before = now
