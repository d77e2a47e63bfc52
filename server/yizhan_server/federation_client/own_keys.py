"""The files of this server's own keys, and taking a new key into use.

Two files: the key that signs (secret), and the public halves of those that have signed before,
which stay published so that old events can be checked for as long as they exist.

Spec: server-server API, "Publishing Keys".
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from yizhan_config.errors import ConfigurationError
from yizhan_config.secret_files import read_secret
from yizhan_server.protocol.identifiers import parse_server_name
from yizhan_server.protocol.server_keys import OldKey, OwnKeys
from yizhan_server.protocol.signing import InvalidKey, SigningKey

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_config.settings import Settings


def load_own_keys(settings: Settings) -> OwnKeys:
    """Read the key that signs, and the old ones. Raises ConfigurationError."""
    return OwnKeys(
        parse_server_name(settings.server_name),
        SigningKey.parse(read_secret(settings.signing_key_file)),
        read_old_keys(settings.old_signing_keys_file),
    )


def read_old_keys(path: Path) -> list[OldKey]:
    """Return the old keys of a file with one in each line; none if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    keys = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                keys.append(OldKey.parse(line))
            except InvalidKey:
                raise ConfigurationError(
                    f"{path} 第 {number} 行不是旧密钥；应为 ed25519:版本 公钥 失效时间（毫秒）。",
                    f"line {number} of {path} is no old key; it is written as "
                    "ed25519:VERSION PUBLIC_KEY EXPIRED_MS.",
                    line=number,
                ) from None
    return keys


def rotate(settings: Settings, now_ms: int) -> tuple[SigningKey, OldKey]:
    """Make a new signing key and note the old one as expired now; returns both.

    The server must not run: what it signed after this moment would not be believed. The old key
    is noted before the new one takes its place, so that a crash in between loses nothing; the key
    is then in both files, counts as in use, and the rotation can be repeated.
    """
    key = SigningKey.parse(read_secret(settings.signing_key_file))
    expired = OldKey(key.verify_key, now_ms)
    old = [
        each
        for each in read_old_keys(settings.old_signing_keys_file)
        if each.key.key_id != key.key_id
    ] + [expired]
    _replace(settings.old_signing_keys_file, "\n".join(each.serialize() for each in old))
    new = SigningKey.generate(_unused_version({each.key.key_id for each in old}))
    _replace(settings.signing_key_file, new.serialize())
    return new, expired


def _unused_version(key_ids: set[str]) -> str:
    while True:
        version = f"a_{secrets.token_hex(2)}"
        if f"ed25519:{version}" not in key_ids:
            return version


def _replace(path: Path, text: str) -> None:
    """Put `text` in place of a file, readable by its owner only: the whole of it or nothing."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
