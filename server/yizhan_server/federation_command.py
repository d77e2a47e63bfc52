"""`yizhan federation`: what an administrator does about other servers.

What is said is Chinese or English by the locale.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from yizhan_config.errors import EXIT_STATUS, ConfigurationError
from yizhan_config.language import say
from yizhan_config.options import UsageError, take
from yizhan_config.settings import load
from yizhan_server.admin.local_socket import SOCKET_NAME
from yizhan_server.clock import SystemClock
from yizhan_server.federation_check import check
from yizhan_server.federation_client.own_keys import rotate
from yizhan_server.protocol.identifiers import InvalidIdentifier, ServerName, parse_server_name
from yizhan_server.protocol.signing import InvalidKey

if TYPE_CHECKING:
    from yizhan_config.settings import Settings

EXIT_USAGE = 64
"""EX_USAGE of sysexits.h."""


def main(argv: Sequence[str]) -> int:
    """Run `[--config FILE] [--data DIR] rotate-key | check NAME` and return the exit status."""
    try:
        typed = take(argv, ["config", "data"])
        if typed.words in (["help"], ["--help"], ["-h"]):
            _tell(_usage())
            return 0
        run: Callable[[Settings], int]
        match typed.words:
            case ["rotate-key"]:
                run = _rotate_key
            case ["check", name]:
                run = partial(check, _server_name(name))
            case _:
                _tell(_usage())
                return EXIT_USAGE
        config, data = typed.find("config"), typed.find("data")
        settings = load(
            None if config is None else Path(config), None if data is None else Path(data)
        )
        return run(settings)
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201 (read by whoever typed it)
        return EXIT_USAGE
    except (ConfigurationError, InvalidKey) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_STATUS


def _rotate_key(settings: Settings) -> int:
    if _is_running(settings.data / SOCKET_NAME):
        raise ConfigurationError(
            "聊天服务器正在运行；请先停止它（systemctl stop yizhan-homeserver），"
            "更换密钥后再启动。",
            "the homeserver is running; stop it first (systemctl stop yizhan-homeserver), "
            "and start it again afterwards.",
        )
    new, old = rotate(settings, SystemClock().now_ms())
    _tell(
        say(
            f"新的签名密钥是 {new.key_id}，在 {settings.signing_key_file}；请备份。\n"
            f"旧密钥 {old.key.key_id} 已失效，其公钥仍会公布，用于核对以前的消息。\n"
            "现在可以启动服务器。",
            f"The new signing key is {new.key_id}, in {settings.signing_key_file}; keep a copy.\n"
            f"The old key {old.key.key_id} has expired; its public half stays published, for "
            "earlier messages.\n"
            "The server can be started now.",
        )
    )
    return 0


def _is_running(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


def _server_name(text: str) -> ServerName:
    try:
        return parse_server_name(text)
    except InvalidIdentifier:
        raise UsageError(say(f"{text} 不是服务器名", f"{text} is no server name")) from None


def _usage() -> str:
    return say(
        "yizhan federation：与其他服务器互通\n\n"
        "  check NAME  按本服务器的设置访问另一服务器，逐步说明结果\n"
        "  rotate-key  更换本服务器的签名密钥（先停止服务器）",
        "yizhan federation: other servers\n\n"
        "  check NAME  ask another server as this one would, and say how far that goes\n"
        "  rotate-key  take a new signing key into use (stop the server first)",
    )


def _tell(text: str) -> None:
    print(text)  # noqa: T201 (this is what the command is for)
