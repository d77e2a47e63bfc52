"""`python -m yizhan_bots --config FILE --data DIR run | trust @user [KEY] | fingerprint`."""

import argparse
import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from yizhan_bots.conversation import Trust
from yizhan_bots.dialogue import open_dialogue
from yizhan_bots.matrix.account import DeviceInUse, Folder
from yizhan_bots.matrix.cross_signing import write_private
from yizhan_bots.matrix.http import Refusal, Unreachable
from yizhan_bots.matrix.runner import BotSettings, Runner
from yizhan_bots.pages import control_pages, office_pages, serve, serve_control
from yizhan_config import logs, settings
from yizhan_config.errors import EXIT_STATUS, ConfigurationError
from yizhan_config.language import say
from yizhan_config.secret_files import read_secret
from yizhan_database import Database, OpeningRefused, open_database

log = logging.getLogger("yizhan_bots")

_STATUS_FILE = "bots.json"
_TRUST_SECONDS = 60


async def run(loaded: settings.Settings) -> None:
    """Run the bot until a signal, or until an essential part of it fails."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        folder = _own_folder(loaded.data)
        stack.callback(folder.close)
        database = await _open_database(loaded)
        stack.push_async_callback(database.close)
        bot = await _start(loaded, database, folder)
        stack.push_async_callback(bot.stop)
        status = {
            "user_id": bot.user_id,
            "device_id": bot.device_id,
            "fingerprint": bot.fingerprint,
        }
        write_private(loaded.data / _STATUS_FILE, json.dumps(status))
        control = await serve_control(control_pages(bot.trust), folder.control_socket)
        stack.push_async_callback(control.cleanup)
        pages = await _listen(loaded.bots, bot)
        stack.push_async_callback(pages.cleanup)
        log.info("bot ready", extra={"user_id": bot.user_id, "listen": str(loaded.bots.listen)})
        async with asyncio.TaskGroup() as group:
            failing = group.create_task(bot.failed())
            await stop.wait()
            failing.cancel()


def _own_folder(data: Path) -> Folder:
    try:
        return Folder.open(data)
    except DeviceInUse:
        raise ConfigurationError(
            f"机器人已经在使用数据目录 {data} 运行；请先停止那一个。",
            f"a bot is already running with the data folder {data}; stop that one first.",
        ) from None


async def _open_database(loaded: settings.Settings) -> Database:
    section = loaded.database
    url = settings.get_database_url(section.bots_url, section.bots_password_file)
    try:
        return await open_database(url, "yizhan_bots.storage.migrations")
    except OpeningRefused as refused:
        raise ConfigurationError(str(refused), str(refused), key="database.bots_url") from None


async def _start(loaded: settings.Settings, database: Database, folder: Folder) -> Runner:
    section = loaded.bots
    names = (section.display_name, section.user_id)
    try:
        return await Runner.start(
            BotSettings(
                homeserver_url=section.homeserver_url,
                user_id=section.user_id,
                password=read_secret(section.password_file),
                display_name=section.display_name,
                administrators=frozenset(section.administrators),
                allow_servers=section.allow_servers,
            ),
            database,
            folder,
            functools.partial(open_dialogue, bot_names=names),
        )
    except Refusal as refusal:
        if refusal.errcode != "M_FORBIDDEN":
            raise
        raise ConfigurationError(
            f"主服务器不接受机器人 {section.user_id} 的密码；"
            f"请检查 bots.user_id 和 {section.password_file}。",
            f"the homeserver does not accept the password of the bot {section.user_id}; "
            f"check bots.user_id and {section.password_file}.",
            key="bots.password_file",
        ) from refusal


async def _listen(section: settings.Bots, bot: Runner) -> web.AppRunner:
    address = section.listen
    try:
        return await serve(office_pages(bot), address.host, address.port)
    except OSError as error:
        raise ConfigurationError(
            f"机器人的网页无法监听 {address}（{error.strerror}）；"
            "请停止占用它的程序，或修改 bots.listen。",
            f"the bot's pages cannot listen on {address} ({error.strerror}); "
            "stop the program that holds it, or change bots.listen.",
            key="bots.listen",
        ) from error


async def trust(loaded: settings.Settings, user_id: str, expected: str) -> int:
    """Have the running bot pin the person's present identity; returns the exit status."""
    question = {"user_id": user_id, "fingerprint": expected}
    try:
        connector = aiohttp.UnixConnector(str(Folder.find_control_socket(loaded.data)))
        async with (
            asyncio.timeout(_TRUST_SECONDS),
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://bots/trust", json=question) as response,
        ):
            answer = await response.json()
    except (aiohttp.ClientError, OSError):
        _tell(
            "机器人没有运行；请先启动它（yizhan up），再试一次。",
            "the bot is not running; start it (yizhan up), then try again.",
        )
        return 1
    outcome, shown = Trust(answer["trust"]), answer["fingerprint"]
    if outcome is Trust.NO_IDENTITY:
        _tell(
            f"{user_id} 还没有交叉签名身份；请此人先用客户端登录并设置加密。",
            f"{user_id} has no cross-signing identity yet; have them sign in with a client and "
            "set up encryption first.",
        )
        return 1
    if outcome is Trust.REFUSED:
        _tell(
            f"没有信任 {user_id}：主服务器给出的身份指纹是 {shown}，与您输入的不同。",
            f"{user_id} is not trusted: the homeserver shows the fingerprint {shown}, which is "
            "not the one that you gave.",
        )
        return 1
    _tell(
        f"已信任 {user_id}，身份指纹 {shown}。请与本人核对；不一致时，这个身份不是本人的。",
        f"{user_id} is trusted with the fingerprint {shown}. Compare it with the person: if "
        "theirs differs, this identity is not theirs.",
    )
    return 0


def show_fingerprint(loaded: settings.Settings) -> int:
    """Print the fingerprint of the bot's identity; returns the exit status."""
    file = loaded.data / _STATUS_FILE
    if not file.exists():
        _tell(
            "机器人还没有启动过，因此没有身份；请运行 yizhan up。",
            "the bot has never run, so it has no identity; run yizhan up.",
        )
        return 1
    print(json.loads(file.read_text())["fingerprint"])  # noqa: T201 (the answer)
    return 0


def _tell(zh: str, en: str) -> None:
    print(say(zh, en))  # noqa: T201 (read by the administrator)


def main() -> int:
    """Read the command line and the settings; returns the exit status."""
    files = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    files.add_argument("--config", type=Path, metavar="FILE")
    files.add_argument("--data", type=Path, metavar="DIR")
    parser = argparse.ArgumentParser(prog="yizhan_bots", description=__doc__, parents=[files])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", parents=[files], help="run the bot until a signal")
    trusting = commands.add_parser("trust", parents=[files], help="pin a person's identity")
    trusting.add_argument("user_id", metavar="@user:server")
    trusting.add_argument("fingerprint", nargs="*", help="its beginning, as the person shows it")
    commands.add_parser("fingerprint", parents=[files], help="print the bot's own fingerprint")
    arguments = parser.parse_args()
    os.umask(0o077)
    try:
        loaded = settings.load(getattr(arguments, "config", None), getattr(arguments, "data", None))
        logs.configure(loaded.logging)
        logging.getLogger("nio").setLevel(logging.ERROR)
        if arguments.command == "fingerprint":
            return show_fingerprint(loaded)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if arguments.command == "trust":
                return runner.run(trust(loaded, arguments.user_id, "".join(arguments.fingerprint)))
            runner.run(run(loaded))
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201 (read by whoever started the program)
        return EXIT_STATUS
    except (Unreachable, Refusal) as error:
        log.error("the homeserver does not serve the bot", extra={"reason": str(error)})  # noqa: TRY400
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
