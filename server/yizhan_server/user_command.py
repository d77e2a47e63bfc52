"""`yizhan user`: the administrator's accounts, whether or not the server is running.

Every act goes to the running server through its socket, else it is done here on the database.
What is said is Chinese or English by the locale; `--json` is for programs.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from yizhan_config.errors import EXIT_STATUS, ConfigurationError
from yizhan_config.language import say
from yizhan_config.options import Arguments, Option, UsageError, describe, parse, take
from yizhan_config.outbound import outbound_session
from yizhan_config.secret_files import make_password
from yizhan_config.settings import get_database_url, load
from yizhan_config.tasks import Background
from yizhan_database import DatabaseUnavailable, OpeningRefused, open_database
from yizhan_server.admin.administration import Refusal
from yizhan_server.admin.local_socket import (
    SOCKET_NAME,
    NotRunning,
    act,
    call_running_server,
)
from yizhan_server.clock import SystemClock
from yizhan_server.people_sheet import Card, make_sheet, read_people

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from yizhan_config.settings import Settings

_NAMES_AT_ONCE = 1000

EXIT_USAGE = 64
"""EX_USAGE of sysexits.h."""


class Administrator(Protocol):
    """Performs one act, here or in the running server."""

    async def __call__(self, name: str, **arguments: Any) -> Any:
        """Return the answer, or raise Refusal."""


def main(argv: Sequence[str]) -> int:
    """Run `[--config FILE] [--data DIR] SUBCOMMAND ...` and return the exit status."""
    try:
        typed = take(argv, ["config", "data"])
        words = typed.words
        if not words or not {"--help", "-h", "help"}.isdisjoint(words):
            print(_usage())  # noqa: T201
            return 0
        command = _find_command(words[0])
        arguments = command.parse(words[1:])
        settings = load(_path(typed.find("config")), _path(typed.find("data")))
        asyncio.run(_run(command, arguments, settings))
    except UsageError as error:
        _complain(str(error))
        return EXIT_USAGE
    except (ConfigurationError, OpeningRefused) as error:
        _complain(str(error))
        return EXIT_STATUS
    except Refusal as refusal:
        _complain(say(refusal.zh, refusal.en))
        return 1
    except DatabaseUnavailable as error:
        _complain(say(f"数据库不可用：{error}", f"the database is unavailable: {error}"))
        return 1
    return 0


def _find_command(name: str) -> _Command:
    command = _COMMANDS.get(name)
    if command is None:
        raise UsageError(
            say(
                f"没有 {name} 这个子命令；可用：{' '.join(_COMMANDS)}",
                f"there is no subcommand {name}; there are: {' '.join(_COMMANDS)}",
            )
        )
    return command


async def _run(command: _Command, arguments: Arguments, settings: Settings) -> None:
    async with _administrator(settings) as administrator:
        await command.run(_Context(administrator, arguments, settings))


@asynccontextmanager
async def _administrator(settings: Settings) -> AsyncIterator[Administrator]:
    socket_path = settings.data / SOCKET_NAME

    async def through_server(name: str, **arguments: Any) -> Any:
        return await call_running_server(socket_path, name, arguments)

    is_running = True
    try:
        await through_server("log", limit=0)
    except NotRunning:
        is_running = False
    if is_running:
        yield through_server
    else:
        async with _offline(settings) as offline:
            yield offline


@asynccontextmanager
async def _offline(settings: Settings) -> AsyncIterator[Administrator]:
    # Imported only when the server is down: the whole of it, for the end of a session concerns
    # keys and pushers too.
    from yizhan_server.app import (  # noqa: PLC0415
        MIGRATIONS,
        OtherInstallation,
        build,
        check_server_name,
        federation_client_of,
        make_appservices,
    )
    from yizhan_server.appservices.calls import AppserviceCalls  # noqa: PLC0415

    url = get_database_url(settings.database.url, settings.database.password_file)
    async with AsyncExitStack() as stack:
        db = await open_database(url, MIGRATIONS)
        stack.push_async_callback(db.close)
        try:
            await check_server_name(db, settings.server_name)
        except OtherInstallation as error:
            raise OpeningRefused(str(error)) from None
        outbound = await stack.enter_async_context(outbound_session(settings.outbound.allow))
        background = await stack.enter_async_context(Background())
        clock = SystemClock()
        federation_client = await stack.enter_async_context(
            federation_client_of(settings, db, clock, background)
        )
        homeserver = build(
            settings, db, clock, outbound, background,
            make_appservices(settings), AppserviceCalls(outbound), federation_client,
        )  # fmt: skip
        stack.callback(homeserver.services.passwords.close)

        async def here(name: str, **arguments: Any) -> Any:
            return await act(homeserver.flows.administration, name, arguments)

        yield here


@dataclass(frozen=True)
class _Context:
    """One invocation."""

    act: Administrator
    arguments: Arguments
    settings: Settings

    @property
    def subject(self) -> str:
        """The account that is named."""
        return self.arguments.words[0]

    @property
    def actor(self) -> str:
        """Who is typing, as far as the system knows."""
        return f"console:{os.environ.get('SUDO_USER') or getpass.getuser()}"

    def tell(self, answer: Any, zh: str, en: str) -> None:
        """Print the answer for a program, or a sentence for a person."""
        if self.arguments.has("json"):
            print(orjson.dumps(answer).decode())  # noqa: T201
        else:
            print(say(zh, en))  # noqa: T201

    def read_password(self) -> str | None:
        """Return the password from the standard input when that was asked for."""
        if not self.arguments.has("password-stdin"):
            return None
        return sys.stdin.readline().rstrip("\r\n")

    def tell_password(self, answer: dict[str, Any], zh: str, en: str) -> None:
        """Print the sentence, and the password if one was made."""
        if "password" in answer:
            zh += f"\n初始密码：{answer['password']}（请当面交给本人，登录后修改）"
            en += f"\nInitial password: {answer['password']} (to be changed after signing in)"
        self.tell(answer, zh, en)


async def _add(call: _Context) -> None:
    answer = await call.act(
        "add",
        actor=call.actor,
        localpart=call.subject,
        password=call.read_password(),
        display_name=call.arguments.find("display-name"),
        is_admin=call.arguments.has("admin"),
    )
    user_id = answer["user_id"]
    call.tell_password(answer, f"已建立 {user_id}。", f"{user_id} has been created.")


async def _list(call: _Context) -> None:
    people = await call.act("list")
    lines = [_line(person) for person in people]
    text = "\n".join([*lines, say(f"共 {len(people)} 个账号。", f"{len(people)} accounts.")])
    call.tell(people, text, text)


def _line(person: dict[str, Any]) -> str:
    marks = [
        say(zh, en)
        for key, zh, en in (
            ("admin", "管理员", "administrator"),
            ("locked", "已锁定", "locked"),
            ("suspended", "已禁言", "suspended"),
            ("deactivated", "已停用", "deactivated"),
            ("initial_password", "初始密码未改", "initial password"),
        )
        if person[key]
    ]
    seen = person["signed_in_ms"]
    when = say("从未登录", "never signed in") if seen is None else _moment(seen)
    return "  ".join(
        part for part in (person["user_id"], person["display_name"], when, *marks) if part
    )


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M")


async def _password(call: _Context) -> None:
    answer = await call.act(
        "password",
        actor=call.actor,
        localpart=call.subject,
        password=call.read_password(),
        keep_devices=call.arguments.has("keep-devices"),
    )
    user_id = answer["user_id"]
    call.tell_password(
        answer, f"{user_id} 的密码已更换。", f"The password of {user_id} has been replaced."
    )


async def _lock(call: _Context) -> None:
    answer = await call.act("lock", actor=call.actor, localpart=call.subject, is_locked=True)
    user_id = answer["user_id"]
    call.tell(answer, f"{user_id} 已锁定。", f"{user_id} is locked.")


async def _unlock(call: _Context) -> None:
    answer = await call.act("lock", actor=call.actor, localpart=call.subject, is_locked=False)
    user_id = answer["user_id"]
    call.tell(answer, f"{user_id} 已解锁。", f"{user_id} is not locked any more.")


async def _suspend(call: _Context) -> None:
    answer = await call.act("suspend", actor=call.actor, localpart=call.subject, is_suspended=True)
    user_id = answer["user_id"]
    call.tell(answer, f"{user_id} 已禁言：能看、能退出，不能发送。", f"{user_id} is suspended.")


async def _unsuspend(call: _Context) -> None:
    answer = await call.act("suspend", actor=call.actor, localpart=call.subject, is_suspended=False)
    user_id = answer["user_id"]
    call.tell(answer, f"{user_id} 已解除禁言。", f"{user_id} is not suspended any more.")


async def _reset_identity(call: _Context) -> None:
    answer = await call.act("reset-identity", actor=call.actor, localpart=call.subject)
    user_id = answer["user_id"]
    call.tell(
        answer,
        f"十分钟内，{user_id} 可以在客户端中重设一次加密身份。",
        f"Within ten minutes {user_id} may replace the cryptographic identity once, in a client.",
    )


async def _admin(call: _Context) -> None:
    is_admin = not call.arguments.has("revoke")
    answer = await call.act("admin", actor=call.actor, localpart=call.subject, is_admin=is_admin)
    user_id = answer["user_id"]
    if is_admin:
        call.tell(answer, f"{user_id} 现在是管理员。", f"{user_id} is an administrator now.")
    else:
        call.tell(
            answer, f"{user_id} 不再是管理员。", f"{user_id} is not an administrator any more."
        )


async def _token(call: _Context) -> None:
    answer = await call.act(
        "token", actor=call.actor, uses=_number(call, "uses"), days=_number(call, "days")
    )
    zh, en = answer["token"], answer["token"]
    if not answer["open"]:
        zh += "\n注意：现在不开放注册（registration.enabled），令牌暂不能用。"
        en += "\nNote: registration is closed (registration.enabled), so it cannot be used yet."
    call.tell(answer, zh, en)


def _number(call: _Context, name: str) -> int | None:
    text = call.arguments.find(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(say(f"--{name} 应为整数", f"--{name} must be a number"))
    return int(text)


async def _log(call: _Context) -> None:
    acts = await call.act("log", limit=1000)
    text = "\n".join(
        "  ".join((_moment(entry["ts_ms"]), entry["actor"], entry["action"], entry["subject"]))
        for entry in reversed(acts)
    )
    call.tell(acts, text, text)


async def _import(call: _Context) -> None:
    """Create who is missing. The sheet is durable before the first account exists.

    A crash in between leaves a sheet with cards of people who are not there yet: the next run
    leaves those with an account alone and makes a new sheet for the others.
    """
    people = await asyncio.to_thread(read_people, Path(call.subject))
    taken: set[str] = set()
    for start in range(0, len(people), _NAMES_AT_ONCE):
        portion = people[start : start + _NAMES_AT_ONCE]
        names = [person.localpart for person in portion]
        taken.update(await call.act("taken", localparts=names))
    server_name = call.settings.server_name
    # Short, for they are typed off paper, yet long enough for the institution's own rule.
    groups = max(3, call.settings.registration.minimum_password_length // 6 + 1)
    cards = [
        Card(person, f"@{person.localpart}:{server_name}", make_password(groups=groups))
        for person in people
        if person.localpart not in taken
    ]
    answer: dict[str, Any] = {
        "created": [card.user_id for card in cards],
        "existing": sorted(f"@{localpart}:{server_name}" for localpart in taken),
        "sheet": None,
    }
    existing_zh = f"已有账号、保持不变：{len(taken)} 人。"
    existing_en = f"{len(taken)} people have an account already and were left alone."
    if not cards:
        call.tell(answer, f"没有新的人员。{existing_zh}", f"Nobody is new. {existing_en}")
        return
    sheet = _sheet_path(call)
    page = make_sheet(cards, server_name, call.settings.public.client_baseurl)
    await asyncio.to_thread(_write_private, sheet, page)
    for card in cards:
        await call.act(
            "add",
            actor=call.actor,
            localpart=card.person.localpart,
            password=card.password,
            display_name=card.person.display_name,
        )
    answer["sheet"] = str(sheet)
    call.tell(
        answer,
        f"已建立 {len(cards)} 个账号。{existing_zh}\n"
        f"账号卡片：{sheet}\n请用浏览器打开、打印、当面分发，然后删除该文件。",
        f"{len(cards)} accounts have been created. {existing_en}\n"
        f"Cards: {sheet}\nOpen it in a browser, print it, hand the cards out, then delete it.",
    )


def _sheet_path(call: _Context) -> Path:
    named = call.arguments.find("sheet")
    if named is not None:
        return Path(named).absolute()
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return call.settings.data / f"cards-{stamp}.html"


def _write_private(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Refusal(
            f"无法写入 {path}：{error.strerror}。", f"{path} cannot be written: {error.strerror}."
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


@dataclass(frozen=True)
class _Command:
    """One subcommand: its usage, what it is called with, and what it does."""

    usage: str
    zh: str
    en: str
    run: Callable[[_Context], Awaitable[None]]
    options: tuple[Option, ...] = ()
    subject: bool = True

    def parse(self, words: Sequence[str]) -> Arguments:
        """Read the words after the subcommand's name."""
        rest = list(words)
        subject: list[str] = []
        if self.subject:
            place = next((i for i, word in enumerate(rest) if self._is_subject(rest, i, word)), -1)
            if place < 0:
                raise UsageError(
                    say(f"用法：yizhan user {self.usage}", f"usage: yizhan user {self.usage}")
                )
            subject = [rest.pop(place)]
        arguments = parse(rest, [*self.options, _JSON])
        arguments.words.extend(subject)
        return arguments

    def _is_subject(self, words: Sequence[str], index: int, word: str) -> bool:
        if word.startswith("--"):
            return False
        before = words[index - 1] if index else ""
        return before not in {f"--{option.name}" for option in self.options if option.value}


_JSON = Option("json", "以 JSON 输出，供程序使用", "print JSON, for programs")
_PASSWORD_STDIN = Option(
    "password-stdin", "从标准输入读一行作密码", "read the password, one line, from standard input"
)

_COMMANDS = {
    "add": _Command(
        "add LOCALPART",
        "建立账号，不给密码就随机生成",
        "create an account; without a password a random one is made",
        _add,
        (
            Option("admin", "设为管理员", "make it an administrator"),
            Option("display-name", "显示名", "display name", "NAME"),
            _PASSWORD_STDIN,
        ),
    ),
    "import": _Command(
        "import FILE.csv",
        "按 CSV 建立账号并生成可打印的账号卡片；可重复，已有账号不变\n"
        "                        列：localpart,display_name[,department,email]",
        "create accounts from a CSV file and make printable cards; may be repeated\n"
        "                        columns: localpart,display_name[,department,email]",
        _import,
        (Option("sheet", "卡片写到哪个文件", "where to write the cards", "FILE.html"),),
    ),
    "list": _Command("list", "列出账号", "list the accounts", _list, subject=False),
    "password": _Command(
        "password LOCALPART",
        "更换密码并使其全部设备退出",
        "replace the password and end all sessions",
        _password,
        (_PASSWORD_STDIN, Option("keep-devices", "不退出设备", "leave the sessions alone")),
    ),
    "lock": _Command("lock LOCALPART", "锁定账号", "lock the account", _lock),
    "unlock": _Command("unlock LOCALPART", "解除锁定", "end the lock", _unlock),
    "suspend": _Command(
        "suspend LOCALPART", "禁言：能看不能发", "suspend: may read, not write", _suspend
    ),
    "unsuspend": _Command("unsuspend LOCALPART", "解除禁言", "end the suspension", _unsuspend),
    "reset-identity": _Command(
        "reset-identity LOCALPART",
        "允许其在十分钟内重设一次加密身份",
        "allow one new cryptographic identity within ten minutes",
        _reset_identity,
    ),
    "admin": _Command(
        "admin LOCALPART",
        "设为管理员",
        "make an administrator",
        _admin,
        (Option("revoke", "取消管理员", "make it an ordinary account"),),
    ),
    "token": _Command(
        "token",
        "生成注册令牌",
        "make a registration token",
        _token,
        (
            Option("uses", "可用几次（不写为不限）", "how often it can be used", "N"),
            Option("days", "几天内有效（不写为不限）", "for how many days", "N"),
        ),
        subject=False,
    ),
    "log": _Command("log", "显示管理操作记录", "show what was done", _log, subject=False),
}


def _usage() -> str:
    lines = [say("yizhan user：管理账号", "yizhan user: accounts"), ""]
    for command in _COMMANDS.values():
        lines.append(f"  {command.usage:<20}  {say(command.zh, command.en)}")
        if command.options:
            lines += [f"      {line.strip()}" for line in describe(command.options).splitlines()]
    lines += ["", describe([_JSON])]
    return "\n".join(lines)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _complain(sentence: str) -> None:
    print(sentence, file=sys.stderr)  # noqa: T201
