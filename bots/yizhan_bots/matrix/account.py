"""The bot's account: signing in, and the device that one process at a time owns.

Everything secret lives in one folder of the data folder, mode 0700, its files 0600.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from yizhan_bots.matrix.cross_signing import OwnIdentity, write_private

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_bots.matrix.http import Homeserver

FOLDER = "bots"


class DeviceInUse(Exception):
    """Another process runs with this data folder."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who the bot is on the homeserver, and the key that its stored keys are encrypted with."""

    user_id: str
    device_id: str
    access_token: str = field(repr=False)
    pickle_key: str = field(repr=False)


class Folder:
    """The bot's files, owned by this process until it ends."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    @classmethod
    def open(cls, data: Path) -> Self:
        """Make the folder if need be and own it. Raises `DeviceInUse`."""
        path = data / FOLDER
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            os.close(lock)
            raise DeviceInUse from taken
        return cls(path, lock)

    def close(self) -> None:
        """Let another process own the folder."""
        os.close(self._lock)

    def find_account(self, user_id: str) -> Account | None:
        """The account that an earlier run signed in to."""
        file = self._path / "account.json"
        if not file.exists():
            return None
        account = Account(**json.loads(file.read_text()))
        return account if account.user_id == user_id else None

    def save_account(self, account: Account) -> None:
        """Keep the account for the next run."""
        kept = {
            "user_id": account.user_id,
            "device_id": account.device_id,
            "access_token": account.access_token,
            "pickle_key": account.pickle_key,
        }
        write_private(self._path / "account.json", json.dumps(kept))

    @staticmethod
    def find_control_socket(data: Path) -> Path:
        """Where a running bot takes orders of the machine's administrator."""
        return data / FOLDER / "control.sock"

    @property
    def control_socket(self) -> Path:
        """The same, of this folder."""
        return self.find_control_socket(self._path.parent)

    def get_identity(self, user_id: str) -> OwnIdentity:
        """Our cross-signing keys; made, and kept before anybody sees them, the first time."""
        file = self._path / "cross_signing.json"
        identity = OwnIdentity.load(file, user_id)
        if identity is None:
            identity = OwnIdentity.generate(user_id)
            identity.save(file)
        return identity


async def sign_in(
    homeserver: Homeserver, user_id: str, password: str, name: str, earlier: Account | None
) -> Account:
    """Sign in by password as a new device. Raises `Refusal` and `Unreachable`.

    What the database holds stays readable: the pickle key of the `earlier` device is kept.
    """
    answer = await homeserver.request(
        "POST",
        "v3/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user_id},
            "password": password,
            "initial_device_display_name": name,
        },
    )
    pickle_key = earlier.pickle_key if earlier else secrets.token_urlsafe(32)
    return Account(answer["user_id"], answer["device_id"], answer["access_token"], pickle_key)
