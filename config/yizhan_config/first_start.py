"""The accounts of the first start: an administrator, the bot, and for a trial two people.

They are made by `python -m yizhan_server user ...` before the homeserver runs. Passwords are
written to DATA/first-start.txt (0600) *before* the accounts are made: a crash in between then
leaves a file without an account, which the next start completes, never an account whose password
nobody knows.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yizhan_config.errors import ConfigurationError
from yizhan_config.language import say
from yizhan_config.programs import command_line
from yizhan_config.secret_files import make_password, read_secret, write_secret
from yizhan_config.settings import Settings

FILE_NAME = "first-start.txt"
_DONE = "first-start.done"


@dataclass(frozen=True)
class Account:
    """Somebody to be created."""

    localpart: str
    display_name: str
    password: str
    administrator: bool = False


def is_done(settings: Settings) -> bool:
    """Whether the accounts of the first start have been made."""
    return (settings.data / _DONE).exists()


def find_passwords(settings: Settings) -> dict[str, str]:
    """Read the user ids and passwords of DATA/first-start.txt, if it is still there."""
    path = settings.data / FILE_NAME
    if not path.exists():
        return {}
    rows = (line.split() for line in read_secret(path).splitlines() if line.startswith("@"))
    return {row[0]: row[1] for row in rows if len(row) == 2}


def make_accounts(settings: Settings, config: Path, *, demo: bool) -> None:
    """Create the accounts that are missing; does nothing after it has succeeded once.

    An administrator who exists already (`yizhan user add NAME --admin`) is not joined by another.
    ConfigurationError with the words of the homeserver if it refuses.
    """
    if is_done(settings):
        return
    existing = json.loads(_user(settings, config, ["list", "--json"]))
    ids = {account["user_id"] for account in existing}
    wanted: list[tuple[str, str]] = []
    if demo:
        wanted += [("zhangsan", "张三"), ("lisi", "李四")]
    administrator = _administrator(settings)
    if not any(account.get("admin") for account in existing):
        wanted.append((administrator, "管理员"))
    passwords = _keep_passwords(settings, [localpart for localpart, _ in wanted])
    accounts = [
        Account(name, title, passwords[name], administrator=name == administrator)
        for name, title in wanted
    ]
    if settings.bots.user_id.endswith(f":{settings.server_name}"):
        localpart = settings.bots.user_id[1:].partition(":")[0]
        secret = read_secret(settings.bots.password_file)
        accounts.append(Account(localpart, settings.bots.display_name, secret))
    for account in accounts:
        if f"@{account.localpart}:{settings.server_name}" not in ids:
            _add(settings, config, account)
    (settings.data / _DONE).touch(mode=0o600)


def _administrator(settings: Settings) -> str:
    suffix = f":{settings.server_name}"
    own = [user for user in settings.bots.administrators if user.endswith(suffix)]
    return own[0][1:].removesuffix(suffix) if own else "admin"


def _keep_passwords(settings: Settings, localparts: Sequence[str]) -> dict[str, str]:
    """Return a password for each, from the file if an interrupted start has written it."""
    server = settings.server_name
    kept = find_passwords(settings)
    passwords = {name: kept.get(f"@{name}:{server}") or make_password() for name in localparts}
    if localparts and not kept:
        rows = "\n".join(f"@{name}:{server} {password}" for name, password in passwords.items())
        head = say(
            "首次启动时生成的密码。登录后请修改，然后删除本文件。",
            "Passwords made at the first start. Change them once you have signed in, "
            "then delete this file.",
        )
        write_secret(settings.data / FILE_NAME, f"{head}\n\n{rows}\n")
    return passwords


def _add(settings: Settings, config: Path, account: Account) -> None:
    flags = ["--admin"] if account.administrator else []
    arguments = ["add", account.localpart, "--display-name", account.display_name, *flags]
    # Through standard input: the arguments of a process are everybody's to read.
    _user(settings, config, [*arguments, "--password-stdin", "--json"], account.password)


def _user(settings: Settings, config: Path, arguments: list[str], typed: str = "") -> str:
    command = command_line("yizhan_server", config, settings.data, ["user", *arguments])
    done = subprocess.run(  # noqa: S603 (our own program)
        command, input=typed + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ConfigurationError(
            f"无法建立首次启动的账号：{last}",
            f"the accounts of the first start could not be made: {last}",
        )
    return done.stdout
