"""Secrets: small files that nobody but their owner may read.

Whether a secret is missing or exposed is told as a `ConfigurationError`; its content is not.
"""

import os
import secrets
import stat
from pathlib import Path

from yizhan_config.errors import ConfigurationError


def read_secret(path: Path) -> str:
    """Return the text of a secret file, without the newline at its end."""
    check_private(path)
    text = path.read_text(encoding="utf-8").rstrip("\r\n")
    if not text:
        raise ConfigurationError(
            f"密钥文件 {path} 是空的；请写入内容，或从备份恢复。",
            f"the secret file {path} is empty; write it, or restore it from a backup.",
        )
    return text


def check_private(path: Path, *, group_may_read: bool = False) -> None:
    """Refuse a secret file that is missing, unreadable, or readable by others.

    `group_may_read` suits the private key of a certificate, which several services share.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(
            f"找不到密钥文件 {path}（{error.strerror}）；请运行 yizhan init，或从备份恢复。",
            f"there is no secret file {path} ({error.strerror}); "
            "run yizhan init, or restore it from a backup.",
        ) from error
    forbidden = 0o037 if group_may_read else 0o077
    if mode & forbidden:
        raise ConfigurationError(
            f"密钥文件 {path} 的权限是 {stat.S_IMODE(mode):04o}，别人也能读；"
            f"请运行 chmod 600 {path}",
            f"the secret file {path} has mode {stat.S_IMODE(mode):04o}, so others can read it; "
            f"run chmod 600 {path}",
        )
    if not os.access(path, os.R_OK):
        raise ConfigurationError(
            f"密钥文件 {path} 无法读取；请把它的所有者改为运行驿站的用户（chown）。",
            f"the secret file {path} cannot be read; give it (chown) to the user that Yizhan "
            "runs as.",
        )


def write_secret(path: Path, text: str) -> None:
    """Create a secret file (0600, durable) with `text`; FileExistsError if it is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")
        file.flush()
        os.fsync(descriptor)


def make_password(*, groups: int = 4) -> str:
    """Return a random password that can be read aloud: groups of five, 24 bits each."""
    # No 0/o, 1/l/i, 2/z, 5/s: the sheets on which these are handed out are typed off by people.
    alphabet = "abcdefghjkmnpqrtuvwxy346789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(groups))
