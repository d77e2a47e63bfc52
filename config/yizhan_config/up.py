"""`yizhan up`: homeserver, push gateway and bots on this machine, with one command.

Without an installation it makes one for a trial: on loopback, with SQLite, without TLS.
"""

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from yizhan_config import first_start, installation
from yizhan_config.address import Address
from yizhan_config.errors import ConfigurationError
from yizhan_config.language import say
from yizhan_config.programs import check_data_folder, command_line
from yizhan_config.settings import FILE_NAME, PushGateway, Settings, load
from yizhan_config.supervisor import Program, Supervisor

_TRIAL_NAME = "localhost"
_HEALTHY_WITHIN_SECONDS = 90
_INSTALL_GUIDE = "docs/operations/install.md"


def up(config: Path | None, data: Path | None, *, demo: bool) -> int:
    """Run everything until Ctrl-C or SIGTERM; returns the exit status."""
    os.umask(0o077)
    if config is None and data is not None and not (data / FILE_NAME).exists():
        create_trial(data)
    settings = load(config, data)
    file = config or settings.data / FILE_NAME
    check_data_folder(settings.data)
    with _only_one(settings.data):
        check_ports(settings, file)
        first = not first_start.is_done(settings)
        first_start.make_accounts(settings, file, demo=demo)
        supervisor = Supervisor(settings.data / "logs", tell)
        asyncio.run(_run(supervisor, settings, file, first=first))
    return 0


def tell(sentence: str) -> None:
    """Show a line to the person at the terminal."""
    with contextlib.suppress(OSError):  # the terminal may be gone; the programs are not
        print(sentence, flush=True)  # noqa: T201 (this is what the command is for)


def create_trial(data: Path) -> None:
    """Make an installation named `localhost` for this machine only."""
    administrator = f"@admin:{_TRIAL_NAME}"
    installation.create(
        data,
        _TRIAL_NAME,
        {
            "outbound.allow": [str(PushGateway().listen)],
            "rate_limits.exempt_users": [f"@yizhan:{_TRIAL_NAME}"],
            "bots.administrators": [administrator],
        },
    )


def check_ports(settings: Settings, config: Path) -> None:
    """Refuse to start while another program holds a port that is needed, and say which."""
    needed = {
        "listen.client": settings.listen.client,
        "push_gateway.listen": settings.push_gateway.listen,
        "bots.listen": settings.bots.listen,
    }
    if settings.tls.certificate:
        needed["listen.tls"] = settings.listen.tls
    if settings.listen.federation:
        needed["listen.federation"] = settings.listen.federation
    for key, address in needed.items():
        try:
            _bind(address)
        except PermissionError as error:
            raise ConfigurationError(
                f"没有权限监听 {address}（{key}）；请使用 config/systemd 中的服务，"
                f"或在 {config} 中换一个 1024 以上的端口。",
                f"{address} ({key}) may not be opened by this user; use the services in "
                f"config/systemd, or choose a port above 1023 in {config}.",
                key=key,
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"{address}（{key}）无法使用：{error.strerror}；"
                f"请停止占用它的程序，或在 {config} 中修改 {key}。",
                f"{address} ({key}) cannot be used: {error.strerror}; stop the program that "
                f"holds it, or change {key} in {config}.",
                key=key,
            ) from error


def _bind(address: Address) -> None:
    host = address.host or None
    found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, target in found:
        with socket.socket(family, kind, protocol) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Hold the data folder for this process; the system lets go even of a killed one."""
    with (data / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise ConfigurationError(
                f"驿站已在使用 {data}（进程 {holder}）；请先停止它，或用 --data 给出另一个目录。",
                f"Yizhan already runs on {data} (process {holder}); stop that one first, or name "
                "another folder by --data.",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def programs(settings: Settings, config: Path) -> tuple[Program, Program, Program]:
    """Return homeserver, push gateway and bots, in the order in which they are needed."""

    def health(address: Address, path: str) -> str:
        return f"http://{address.reachable}{path}"

    def command(package: str, *arguments: str) -> list[str]:
        return command_line(package, config, settings.data, arguments)

    return (
        Program(
            "homeserver",
            "聊天服务器",
            "homeserver",
            command("yizhan_server", "serve"),
            health(settings.listen.client, "/_matrix/client/versions"),
        ),
        Program(
            "push-gateway",
            "推送网关",
            "push gateway",
            command("yizhan_bridges"),
            health(settings.push_gateway.listen, "/health"),
        ),
        Program(
            "bots",
            "机器人",
            "bots",
            command("yizhan_bots", "run"),
            health(settings.bots.listen, "/health"),
        ),
    )


async def _run(supervisor: Supervisor, settings: Settings, config: Path, *, first: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    homeserver, gateway, bots = programs(settings, config)
    tell(say("驿站正在启动……", "Yizhan is starting ..."))
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.keep(homeserver))
        group.create_task(supervisor.keep(gateway))
        late = [homeserver]
        if await supervisor.healthy(homeserver, within=_HEALTHY_WITHIN_SECONDS):
            group.create_task(supervisor.keep(bots))
            late = [
                program
                for program in (gateway, bots)
                if not await supervisor.healthy(program, within=_HEALTHY_WITHIN_SECONDS)
            ]
        if not supervisor.stopping:
            for program in late:
                _tell_late(supervisor, program)
            if homeserver not in late:
                fingerprint = await asyncio.to_thread(_find_fingerprint, bots.health_url)
                tell(greeting(settings, fingerprint, first=first))
        await supervisor.stopped()
        if supervisor.refusal is None:
            tell(
                say(
                    "正在停止……（再按一次 Ctrl-C 立即结束）", "Stopping ... (Ctrl-C again: at once)"
                )
            )
    if supervisor.refusal is not None:
        raise ConfigurationError(supervisor.refusal, supervisor.refusal)
    tell(say("驿站已停止。", "Yizhan has stopped."))


def _tell_late(supervisor: Supervisor, program: Program) -> None:
    log = supervisor.log_of(program)
    tell(
        say(
            f"{program.title}在 {_HEALTHY_WITHIN_SECONDS} 秒内没有应答；详见 {log}",
            f"The {program.title} has not answered within {_HEALTHY_WITHIN_SECONDS} s; see {log}",
        )
    )


def _find_fingerprint(health_url: str) -> str:
    """Ask the bots for the fingerprint of their identity; empty if they do not tell."""
    host, _, path = health_url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", f"/{path}")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        connection.close()
    fingerprint = answer.get("fingerprint") if isinstance(answer, dict) else None
    return fingerprint if isinstance(fingerprint, str) else ""


def greeting(settings: Settings, fingerprint: str, *, first: bool) -> str:
    """Say where everything is and what to try first."""
    passwords = first_start.find_passwords(settings)
    url = settings.public.client_baseurl
    bot = settings.bots.user_id
    lines = [
        "",
        say("驿站已启动", "Yizhan is running"),
        say(f"  地址    {url}", f"  Address        {url}"),
    ]
    for user, password in passwords.items():
        shown = password if first else ""
        if user in settings.bots.administrators:
            lines.append(say(f"  管理员  {user}  {shown}", f"  Administrator  {user}  {shown}"))
        else:
            lines.append(say(f"  账号    {user}  {shown}", f"  Account        {user}  {shown}"))
    lines.append(say(f"  机器人  {bot}", f"  Bot            {bot}"))
    if fingerprint:
        lines.append(say(f"  指纹    {fingerprint}", f"  Fingerprint    {fingerprint}"))
    if passwords:
        path = settings.data / first_start.FILE_NAME
        lines.append(
            say(
                f"密码也在 {path}，修改之前有效。",
                f"The passwords are in {path}, valid until changed.",
            )
        )
    if settings.server_name == _TRIAL_NAME:
        lines.append(
            say(
                f"这是仅限本机的试用；正式安装见 {_INSTALL_GUIDE}。",
                f"This is a trial, for this machine only; to install: {_INSTALL_GUIDE}.",
            )
        )
    lines += ["", *_first_steps(url, bot, list(passwords)), ""]
    return "\n".join(lines)


def _first_steps(url: str, bot: str, accounts: list[str]) -> list[str]:
    somebody = accounts[0] if accounts else say("您的账号", "your account")
    colleague = accounts[1] if len(accounts) > 1 else say("一位同事", "a colleague")
    return [
        say("先试试：", "First steps:"),
        say(
            f"  1. 在 Element 等 Matrix 客户端把服务器改为 {url}，以 {somebody} 登录。",
            f"  1. In Element or another Matrix client, set the homeserver to {url} and sign in as "
            f"{somebody}.",
        ),
        say(
            f"  2. 与 {bot} 私聊，它会带您走一遍；发送 1 即可请假。",
            f"  2. Start a chat with {bot}; it shows you around. Send 1 to ask for leave.",
        ),
        say(
            f"  3. 在另一个客户端以 {colleague} 登录，同样与机器人打招呼，再批准这次请假。",
            f"  3. In a second client, sign in as {colleague}, greet the bot too, and approve it.",
        ),
        say("按 Ctrl-C 停止全部程序。", "Ctrl-C stops everything."),
    ]
