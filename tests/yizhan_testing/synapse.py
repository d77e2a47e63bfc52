"""A real Synapse for tests and benchmarks: one process on loopback, SQLite, no federation.

It comes from the Python package index, into `.cache` when it is first asked for;
`YIZHAN_SYNAPSE_PYTHON` names the interpreter of another installation. It has the attributes of the
other homeservers that tests run against: `base_url`, `server_name`, `register`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

import aiohttp

from yizhan_testing.environments import environment_with

SYNAPSE_VERSION = "1.163.2"
_UNLIMITED = {"per_second": 10_000, "burst_count": 100_000}


def find_synapse() -> Path:
    """Return the interpreter of an installed Synapse, installing it first when there is none.

    Raises RuntimeError with pip's words when that fails.
    """
    chosen = os.environ.get("YIZHAN_SYNAPSE_PYTHON")
    if chosen:
        return Path(chosen)
    return environment_with(f"matrix-synapse=={SYNAPSE_VERSION}")


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Synapse:
    """A running Synapse whose data is in one folder; stopped and started again it goes on there."""

    def __init__(self, folder: Path, server_name: str, options: dict[str, Any]) -> None:
        self.folder = folder
        self.server_name = server_name
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._shared_secret = secrets.token_hex(16)
        self.options = options
        """Keys of homeserver.yaml, for `configure`."""
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    async def start(
        cls,
        folder: Path,
        *,
        server_name: str = "localhost",
        options: dict[str, Any] | None = None,
        command_prefix: tuple[str, ...] = (),
    ) -> Self:
        """Start one and wait until it answers.

        `options` overrides keys of homeserver.yaml; `command_prefix` goes before the command, to
        pin it to a core for instance.
        """
        synapse = cls(folder, server_name, options or {})
        await asyncio.to_thread(synapse.configure)
        await synapse.run(command_prefix=command_prefix)
        return synapse

    def configure(self) -> None:
        """Write the configuration and the signing key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        (self.folder / "signing.key").write_text(f"ed25519 a_test {seed}\n")
        logging = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {
                "file": {
                    "class": "logging.FileHandler",
                    "filename": str(self.folder / "homeserver.log"),
                    "formatter": "plain",
                }
            },
            "root": {"level": "WARNING", "handlers": ["file"]},
        }
        (self.folder / "log.yaml").write_text(json.dumps(logging))
        # JSON is YAML.
        (self.folder / "homeserver.yaml").write_text(json.dumps(self._settings(), indent=2))

    def _settings(self) -> dict[str, Any]:
        limited_once = (
            "rc_message",
            "rc_registration",
            "rc_admin_redaction",
            "rc_room_creation",
            "rc_delayed_event_mgmt",
            "rc_user_directory",
        )
        settings: dict[str, Any] = {
            "server_name": self.server_name,
            "public_baseurl": f"{self.base_url}/",
            "pid_file": str(self.folder / "homeserver.pid"),
            "listeners": [
                {
                    "port": self.port,
                    "type": "http",
                    "bind_addresses": ["127.0.0.1"],
                    "resources": [{"names": ["client"]}],
                }
            ],
            "database": {
                "name": "sqlite3",
                "args": {"database": str(self.folder / "homeserver.db")},
            },
            "log_config": str(self.folder / "log.yaml"),
            "media_store_path": str(self.folder / "media"),
            "signing_key_path": str(self.folder / "signing.key"),
            "registration_shared_secret": self._shared_secret,
            "macaroon_secret_key": secrets.token_hex(16),
            "form_secret": secrets.token_hex(16),
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "report_stats": False,
            "enable_metrics": False,
            # A client that signs in again and again, as tests and benchmarks do, is no attack.
            **dict.fromkeys(limited_once, _UNLIMITED),
            "rc_login": dict.fromkeys(("address", "account", "failed_attempts"), _UNLIMITED),
            "rc_joins": dict.fromkeys(("local", "remote"), _UNLIMITED),
            "rc_joins_per_room": _UNLIMITED,
            "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), _UNLIMITED),
            "rc_presence": {"per_user": _UNLIMITED},
        }
        return settings | self.options

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "Synapse is not running"
        return self._process.pid

    async def run(self, *, command_prefix: tuple[str, ...] = (), within_s: float = 60) -> None:
        """Start the process and wait until it answers; also after `stop` or `kill`."""
        await asyncio.to_thread(self._launch, command_prefix)
        try:
            async with asyncio.timeout(within_s), aiohttp.ClientSession() as session:
                while not await self._answers(session):
                    self._check_alive()
                    await asyncio.sleep(0.05)
        except BaseException:
            await self.stop()
            raise

    def _launch(self, command_prefix: tuple[str, ...]) -> None:
        command = (find_synapse(), "-m", "synapse.app.homeserver", "-c", "homeserver.yaml")
        with (self.folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command_prefix, *command], stdout=log, stderr=log, cwd=self.folder
            )

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            last_words = (self.folder / "output.log").read_text()[-2000:]
            raise RuntimeError(f"Synapse ended: {last_words}")

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.base_url}/_matrix/client/versions") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def stop(self) -> None:
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

    async def kill(self) -> None:
        """End it by SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def register(self, localpart: str, password: str, admin: bool = False) -> str:
        """Make an account by the registration secret; returns the user id."""
        url = f"{self.base_url}/_synapse/admin/v1/register"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                nonce = (await answer.json())["nonce"]
            role = "admin" if admin else "notadmin"
            text = f"{nonce}\x00{localpart}\x00{password}\x00{role}".encode()
            mac = hmac.new(self._shared_secret.encode(), text, hashlib.sha1).hexdigest()
            body = {
                "nonce": nonce,
                "username": localpart,
                "password": password,
                "admin": admin,
                "mac": mac,
                "inhibit_login": True,  # else the account begins with a device
            }
            async with session.post(url, json=body) as answer:
                made = await answer.json()
                if answer.status != 200:
                    raise RuntimeError(f"registering {localpart}: {answer.status} {made}")
                return str(made["user_id"])
