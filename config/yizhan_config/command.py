"""The command `yizhan`: makes installations, starts the programs, and passes words on to them."""

import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from yizhan_config import first_start, installation
from yizhan_config.errors import EXIT_STATUS, ConfigurationError
from yizhan_config.language import say
from yizhan_config.options import Arguments, Option, UsageError, describe, parse, take
from yizhan_config.programs import check_data_folder, command_line, find_files
from yizhan_config.settings import BOT_LOCALPART, FILE_NAME, PushGateway, load
from yizhan_config.up import tell, up

_USAGE_STATUS = 64  # EX_USAGE of sysexits.h
_INTERRUPTED_STATUS = 130  # as shells report SIGINT

_DATA = Option("data", "数据目录", "the data folder", "DIR")
_CONFIG = Option(
    "config", "配置文件（默认：数据目录中的 yizhan.toml）", "the configuration", "FILE"
)

_UP = (
    _DATA,
    _CONFIG,
    Option("demo", "首次启动时另建两个演示账号", "also make two demo accounts at the first start"),
)

_INIT = (
    Option(
        "server-name", "服务器名，以后不能更改", "cannot be changed later", "NAME", required=True
    ),
    Option("data", "数据目录", "the data folder", "DIR", required=True),
    Option("tls-cert", "证书文件（含证书链）", "the certificate with its chain", "FILE"),
    Option("tls-key", "证书的私钥文件", "the certificate's private key", "FILE"),
    Option("behind-proxy", "由 nginx 或 Caddy 提供 TLS", "TLS is served by nginx or Caddy"),
    Option("public-url", "客户端使用的网址（默认 https://NAME）", "the URL for clients", "URL"),
    Option("administrator", "管理员的用户名（默认 admin）", "the administrator's name", "NAME"),
    Option("set", "写入任意一个键，可重复", "write any key; may be repeated", "KEY=VALUE"),
    Option("keep", "已经安装过则什么也不做", "do nothing if there is an installation already"),
)


def main() -> None:
    """Run the command that was typed, and exit with its status."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


def run(typed: Sequence[str]) -> int:
    """Run `yizhan` with the words `typed`; returns the exit status."""
    name, rest = (typed[0], typed[1:]) if typed else ("help", [])
    try:
        if name in {"help", "--help", "-h"}:
            tell(_usage())
            return 0
        if name == "--version":
            tell(_version())
            return 0
        return _COMMANDS.get(name, _refuse(name))(rest)
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201
        print(say("运行 yizhan help 查看用法。", "Run yizhan help."), file=sys.stderr)  # noqa: T201
        return _USAGE_STATUS
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_STATUS
    except KeyboardInterrupt:
        return _INTERRUPTED_STATUS


def _refuse(name: str) -> Callable[[Sequence[str]], int]:
    def refuse_it(_: Sequence[str]) -> int:
        raise UsageError(say(f"没有 yizhan {name} 这个命令。", f"there is no yizhan {name}."))

    return refuse_it


def _run_up(typed: Sequence[str]) -> int:
    arguments = parse(typed, _UP)
    config, data = arguments.find("config"), arguments.find("data")
    if config is None and data is None:
        data = "data"
    return up(*find_files(config, data), demo=arguments.has("demo"))


def _run_init(typed: Sequence[str]) -> int:
    arguments = parse(typed, _INIT)
    server_name = arguments.find("server-name") or ""
    data = Path(arguments.find("data") or "").absolute()
    if arguments.has("keep") and (data / FILE_NAME).exists():
        return 0
    chosen = _chosen(arguments, server_name)
    settings = installation.create(data, server_name, chosen)
    proxy = not settings.tls.certificate
    tell(
        say(
            f"已在 {data} 写好配置、密钥和机密文件。接下来：\n"
            f"  1. 查看 {data / FILE_NAME}\n"
            "  2. 启动服务：sudo systemctl enable --now yizhan-homeserver yizhan-push-gateway "
            "yizhan-bots\n"
            f"  3. 管理员的密码在 {data / first_start.FILE_NAME}（首次启动时生成）\n"
            f"  4. 导入人员：yizhan user import people.csv --data {data}"
            + ("\n  5. 配置反向代理：见 config/nginx.conf 或 config/Caddyfile" if proxy else ""),
            f"Configuration, keys and secrets are in {data}. Next:\n"
            f"  1. Look through {data / FILE_NAME}\n"
            "  2. Start: sudo systemctl enable --now yizhan-homeserver yizhan-push-gateway "
            "yizhan-bots\n"
            f"  3. The administrator's password: {data / first_start.FILE_NAME} (first start)\n"
            f"  4. Bring in people: yizhan user import people.csv --data {data}"
            + ("\n  5. Reverse proxy: see config/nginx.conf or config/Caddyfile" if proxy else ""),
        )
    )
    return 0


def _chosen(arguments: Arguments, server_name: str) -> dict[str, installation.Value]:
    certificate, key = arguments.find("tls-cert"), arguments.find("tls-key")
    if bool(certificate) != bool(key) or bool(certificate) == arguments.has("behind-proxy"):
        raise UsageError(
            say(
                "请给出 --tls-cert 和 --tls-key，或者 --behind-proxy。",
                "give --tls-cert and --tls-key, or else --behind-proxy.",
            )
        )
    administrator = arguments.find("administrator") or "admin"
    chosen: dict[str, installation.Value] = {
        "public.client_baseurl": arguments.find("public-url") or f"https://{server_name}",
        "outbound.allow": [str(PushGateway().listen)],
        "rate_limits.exempt_users": [f"@{BOT_LOCALPART}:{server_name}"],
        "bots.administrators": [f"@{administrator}:{server_name}"],
    }
    if certificate and key:
        chosen["tls.certificate"] = str(Path(certificate).absolute())
        chosen["tls.key"] = str(Path(key).absolute())
    else:
        chosen["listen.trusted_proxies"] = ["127.0.0.1", "::1"]
    for assignment in arguments.values.get("set", []):
        dotted, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(say("应为 --set KEY=VALUE", "it is --set KEY=VALUE"))
        chosen[dotted] = _value(text)
    return chosen


def _value(text: str) -> installation.Value:
    try:
        value: installation.Value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # quotes around a text are left out on a command line
    return value


def _run_serve(typed: Sequence[str]) -> int:
    arguments = parse(typed, (_DATA, _CONFIG))
    config, data = find_files(arguments.find("config"), arguments.find("data"))
    settings = load(config, data)
    check_data_folder(settings.data)
    file = config or settings.data / FILE_NAME
    first_start.make_accounts(settings, file, demo=False)
    return _execute(command_line("yizhan_server", file, settings.data, ["serve"]))


def _pass_on(package: str, *first: str) -> Callable[[Sequence[str]], int]:
    def run_it(typed: Sequence[str]) -> int:
        arguments = take(typed, ["config", "data"])
        words = [*first, *(arguments.words or ["--help"])]
        if not {"--help", "-h"}.isdisjoint(words):
            return _execute(command_line(package, None, None, words))
        config, data = find_files(arguments.find("config"), arguments.find("data"))
        check_data_folder(load(config, data).data)
        return _execute(command_line(package, config, data, words))

    return run_it


def _execute(command: list[str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606 (a process of its own, in place of this one)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "up": _run_up,
    "init": _run_init,
    "serve": _run_serve,
    "user": _pass_on("yizhan_server", "user"),
    "federation": _pass_on("yizhan_server", "federation"),
    "bots": _pass_on("yizhan_bots"),
}


def _usage() -> str:
    return say(
        f"""驿站：政务与机构用的安全即时通信。

yizhan up      在本机运行全部程序（试用，或小型安装）
{describe(_UP)}

yizhan init    建立正式安装：配置、密钥和机密文件
{describe(_INIT)}

yizhan serve   只运行聊天服务器            --data DIR | --config FILE
yizhan user    账号：add、import、list、password、lock、suspend、reset-identity、admin、token、log
yizhan federation  与其他服务器互通：check、rotate-key
yizhan bots    机器人：run、trust、fingerprint

各命令加 --help 可看到详细用法；语言随 LANG 环境变量。""",
        f"""Yizhan: secure chat for government and other institutions.

yizhan up      run all programs on this machine (a trial, or a small installation)
{describe(_UP)}

yizhan init    make a real installation: configuration, keys and secrets
{describe(_INIT)}

yizhan serve   run the homeserver only     --data DIR | --config FILE
yizhan user    accounts: add, import, list, password, lock, suspend, reset-identity, admin,
               token, log
yizhan federation  other servers: check, rotate-key
yizhan bots    the bot: run, trust, fingerprint

A command with --help tells more; the language follows LANG.""",
    )


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 (slow to import, rarely needed)

    return version("yizhan")
