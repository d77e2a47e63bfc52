"""The services of docker-compose.yml as local processes.

No container engine is needed: each service's very command, environment and health check is
executed here. What a container network and its volume would provide is put in their place: names
of services become 127.0.0.1, ports become free ones, /data becomes a folder.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

ROOT = Path(__file__).parents[2]
_IMAGE_PATH = Path(sys.executable).parent  # where the image has /opt/yizhan/bin


@dataclass
class Composition:
    """The services of our image; PostgreSQL is brought by the caller.

    `variables` are those of the file .env, `ports` maps the ports of the file to free ones,
    `search` holds folders in which packages are found before ours.
    """

    data: Path
    variables: Mapping[str, str]
    ports: Mapping[int, int]
    search: tuple[Path, ...] = ()
    _started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the file."""
        text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
        self.document: dict[str, Any] = yaml.safe_load(text)
        self.services: dict[str, dict[str, Any]] = self.document["services"]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all services as `docker compose down` does: SIGTERM, then their grace."""
        for process in reversed(self._started.values()):
            process.terminate()
        for process in self._started.values():
            try:
                process.wait(timeout=45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, service: str) -> None:
        """Run a service that is to end, such as `setup`; CalledProcessError if it fails."""
        subprocess.run(self.command(service), env=self.environment(service), check=True)

    def execute(self, service: str, *words: str, typed: str = "") -> str:
        """Run a command beside a service, as `docker compose exec`; returns what it printed."""
        done = subprocess.run(
            self._executable([self._here(word) for word in words]),
            env=self.environment(service),
            input=typed,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def start(self, service: str) -> None:
        """Start a service; its output goes to DATA/SERVICE.log."""
        with (self.data / f"{service}.log").open("ab") as log:
            self._started[service] = subprocess.Popen(
                self.command(service),
                env=self.environment(service),
                cwd=self.data,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self, service: str) -> int:
        """Ask a service to end, and return its exit status."""
        process = self._started.pop(service)
        process.terminate()
        return process.wait(timeout=45)

    def wait_healthy(self, service: str, *, within: float = 60) -> None:
        """Run the service's own health check until it succeeds."""
        check = self.services[service]["healthcheck"]["test"]
        assert check[0] == "CMD"
        deadline = time.monotonic() + within
        while True:
            assert self._started[service].poll() is None, self.log(service)
            words = [self._here(word) for word in check[1:]]
            done = subprocess.run(
                self._executable(words), env=self.environment(service), check=False
            )
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, self.log(service)
            time.sleep(0.1)

    def log(self, service: str) -> str:
        """What the service has written."""
        return (self.data / f"{service}.log").read_text(encoding="utf-8", errors="replace")

    def command(self, service: str) -> list[str]:
        """The command of the service, for this machine."""
        return self._executable([self._here(word) for word in self.services[service]["command"]])

    def environment(self, service: str) -> dict[str, str]:
        """The environment that the image and the file give it, and nothing of this machine's."""
        given = self.services[service].get("environment", {})
        image = {"PATH": f"{_IMAGE_PATH}:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        if self.search:
            image["PYTHONPATH"] = os.pathsep.join([*map(str, self.search), *sys.path])
        return {**image, **{name: self._here(value) for name, value in given.items()}}

    def _executable(self, words: list[str]) -> list[str]:
        if words[0] == "yizhan":  # the script that the wheel installs
            return [
                sys.executable,
                "-c",
                "from yizhan_config.command import main; main()",
                *words[1:],
            ]
        if words[0] == "python":
            return [sys.executable, *words[1:]]
        return words

    def _here(self, text: str) -> str:
        text = re.sub(r"\$\{(\w+):\?\}", lambda match: self.variables[match[1]], text)
        for name in self.services:
            text = re.sub(rf"(?<=[/@\"]){re.escape(name)}(?=:\d)", "127.0.0.1", text)
        for port, free in self.ports.items():
            text = re.sub(rf":{port}\b", f":{free}", text)
        return re.sub(r"(?<=[= ])/data\b|^/data\b", str(self.data), text)
