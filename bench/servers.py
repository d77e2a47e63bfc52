"""The servers that are compared: how each is configured, started on its own core, and measured."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from bench.processes import cpu_s, pss_mib, settle
from yizhan_testing.synapse import SYNAPSE_VERSION, Synapse, find_synapse, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REPOSITORY = Path(__file__).parents[1]


class Kind(Protocol):
    """A server program. Data and configuration of an installation live in one folder."""

    name: str
    server_name: str

    def version(self) -> str:
        """Return what exactly is measured."""

    def configure(self, folder: Path) -> str:
        """Write a new installation into `folder`; returns its base URL."""

    def command(self, folder: Path) -> list[str]:
        """Return what starts it."""


class SynapseKind:
    """Synapse as performance-relevant settings go: one process, no presence, no rate limits,
    warnings only, SQLite with its durable default, no cache of equal /sync requests.
    """

    name = "synapse"
    server_name = "localhost"

    def version(self) -> str:
        return f"Synapse {SYNAPSE_VERSION}"

    def options(self, port: int) -> dict[str, Any]:
        """Return keys of the configuration; `port` is that for clients."""
        del port
        return {
            "presence": {"enabled": False},
            "caches": {"sync_response_cache_duration": "0s"},
            "enable_registration": True,
            "enable_registration_without_verification": True,
        }

    def configure(self, folder: Path) -> str:
        synapse = Synapse(folder, self.server_name, {})
        synapse.options |= self.options(synapse.port)
        synapse.configure()
        return synapse.base_url

    def command(self, folder: Path) -> list[str]:
        program = [str(find_synapse()), "-m", "synapse.app.homeserver"]
        return [*program, "-c", str(folder / "homeserver.yaml")]


class YizhanKind:
    """Yizhan's homeserver alone with its defaults, but without presence and rate limits."""

    name = "yizhan"
    server_name = "localhost"

    def version(self) -> str:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        return f"Yizhan {commit}".rstrip()

    def settings(self, port: int) -> tuple[str, ...]:
        """Return keys of the configuration; `port` is that for clients."""
        return (
            f'listen.client="127.0.0.1:{port}"',
            f'public.client_baseurl="http://127.0.0.1:{port}"',
            "registration.enabled=true",
            "registration.require_token=false",
            "rate_limits.enabled=false",
            "presence.enabled=false",
            'logging.level="warning"',
        )

    def configure(self, folder: Path) -> str:
        port = free_port()
        command = "from yizhan_config.command import main; main()"
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-c", command),
                *("init", "--server-name", self.server_name, "--data", str(folder)),
                "--behind-proxy",
                *(word for setting in self.settings(port) for word in ("--set", setting)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"yizhan init failed:\n{done.stdout}{done.stderr}")
        return f"http://127.0.0.1:{port}"

    def command(self, folder: Path) -> list[str]:
        program = [sys.executable, "-P", "-m", "yizhan_server"]
        return [*program, "--config", str(folder / "yizhan.toml"), "--data", str(folder), "serve"]


KINDS: dict[str, type[SynapseKind | YizhanKind]] = {
    SynapseKind.name: SynapseKind,
    YizhanKind.name: YizhanKind,
}


@dataclass(frozen=True)
class Cores:
    """Which core the server has for itself, and which the driver; None where there is one only."""

    server: int | None
    driver: int | None

    @classmethod
    def choose(cls) -> Cores:
        available = sorted(os.sched_getaffinity(0))
        if len(available) < 2:
            return cls(None, None)
        return cls(available[0], available[-1])


@dataclass(frozen=True)
class Start:
    """Seconds until the first answer."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Template:
    """The copy of an installation, and the address that its configuration names."""

    folder: Path
    base_url: str


class Server:
    """One installation of a kind in one folder, running or not."""

    def __init__(self, kind: Kind, label: str, folder: Path, cores: Cores) -> None:
        self.kind = kind
        self.label = label
        self.folder = folder
        self.base_url = ""
        self._cores = cores
        self._process: subprocess.Popen[bytes] | None = None

    def make_new(self) -> None:
        """Replace the folder's content by a new installation."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.base_url = self.kind.configure(self.folder)

    def keep(self) -> Template:
        """Copy the stopped installation aside."""
        folder = self.folder.with_suffix(".template")
        shutil.copytree(self.folder, folder)
        return Template(folder, self.base_url)

    def restore(self, template: Template) -> None:
        """Make the installation what it was when it was kept; paths and port in it stay true."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(template.folder, self.folder)
        self.base_url = template.base_url

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.label} is not running"
        return self._process.pid

    @asynccontextmanager
    async def running(self, within_s: float = 90) -> AsyncIterator[Start]:
        """Start it, wait for its first answer, and stop it at the end."""
        began = time.monotonic()
        await asyncio.to_thread(self._launch)
        try:
            async with asyncio.timeout(within_s), aiohttp.ClientSession() as session:
                while not await self._answers(session):
                    self._check_alive()
                    await asyncio.sleep(0.01)
            yield Start(self.cpu_s(), time.monotonic() - began)
        finally:
            await self._stop()

    def _launch(self) -> None:
        pinned = [] if self._cores.server is None else ["taskset", "-c", str(self._cores.server)]
        log_path = self.folder.with_suffix(".log")
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*pinned, *self.kind.command(self.folder)],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.base_url}/_matrix/client/versions") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            last_words = self.folder.with_suffix(".log").read_text()[-3000:]
            raise RuntimeError(f"{self.label} ended:\n{last_words}")

    async def _stop(self) -> None:
        """End it in an orderly way; by force after 20 s."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 20)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def pss_mib(self) -> float:
        return pss_mib(self.pid)

    async def settle(self, at_most_s: float = 5) -> None:
        await settle(self.pid, at_most_s)
