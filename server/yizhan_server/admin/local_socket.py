"""The administrator's door: a Unix socket in the data folder, open to the server's own user only.

SQLite allows one process, so while the server runs `yizhan user` asks it to act; and with either
database only the server itself can make its caches forget at once. Whoever may open the socket
could as well read the database: the file's mode 0600 is the authentication, as it is there.

`POST /user/ACT` with a JSON object of arguments answers `{"answer": ...}`, or 400 with a sentence
in `zh` and `en`.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientSession,
    ClientTimeout,
    UnixConnector,
    web,
)

from yizhan_server.admin.administration import Refusal, UserAdministration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


SOCKET_NAME = "homeserver.sock"
_MAX_PATH = 100
"""Bytes. The kernel's limit for a socket's path is 107."""


class NotRunning(Exception):
    """Nobody listens on the socket."""


async def act(administration: UserAdministration, name: str, arguments: object) -> Any:
    """Perform the act `name`; Refusal when it cannot be done or is not known."""
    found = _ACTS.get(name)
    if found is None:
        raise Refusal(
            "服务器不认识这个操作；它的版本可能较旧。", "The server does not know this act."
        )
    kind, perform = found
    return await perform(administration, **_checked(arguments, kind))


class Nothing(msgspec.Struct):
    """No arguments."""


class Taken(msgspec.Struct):
    """Arguments of `find_taken`."""

    localparts: list[str]


class Add(msgspec.Struct):
    """Arguments of `add`."""

    actor: str
    localpart: str
    password: str | None = None
    display_name: str | None = None
    is_admin: bool = False


class SetPassword(msgspec.Struct):
    """Arguments of `set_password`."""

    actor: str
    localpart: str
    password: str | None = None
    keep_devices: bool = False


class SetLocked(msgspec.Struct):
    """Arguments of `set_locked`."""

    actor: str
    localpart: str
    is_locked: bool


class SetSuspended(msgspec.Struct):
    """Arguments of `set_suspended`."""

    actor: str
    localpart: str
    is_suspended: bool


class Subject(msgspec.Struct):
    """Arguments of what needs nothing but an account."""

    actor: str
    localpart: str


class SetAdmin(msgspec.Struct):
    """Arguments of `set_admin`."""

    actor: str
    localpart: str
    is_admin: bool


class MakeToken(msgspec.Struct):
    """Arguments of `make_token`."""

    actor: str
    uses: int | None = None
    days: int | None = None


class ListActs(msgspec.Struct):
    """Arguments of `list_acts`."""

    limit: int = 100


_ACTS: dict[str, tuple[type[msgspec.Struct], Callable[..., Awaitable[Any]]]] = {
    "list": (Nothing, UserAdministration.list_people),
    "taken": (Taken, UserAdministration.find_taken),
    "add": (Add, UserAdministration.add),
    "password": (SetPassword, UserAdministration.set_password),
    "lock": (SetLocked, UserAdministration.set_locked),
    "suspend": (SetSuspended, UserAdministration.set_suspended),
    "reset-identity": (Subject, UserAdministration.allow_identity_reset),
    "admin": (SetAdmin, UserAdministration.set_admin),
    "token": (MakeToken, UserAdministration.make_token),
    "log": (ListActs, UserAdministration.list_acts),
}
"""The one table of acts, for both ways of calling them."""


def _checked(arguments: object, kind: type[msgspec.Struct]) -> dict[str, Any]:
    try:
        return msgspec.structs.asdict(msgspec.convert(arguments, kind))
    except msgspec.ValidationError as error:
        raise Refusal(f"参数不对：{error}", f"Wrong arguments: {error}") from None


def make_admin_socket_handler(
    administration: UserAdministration,
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Return the aiohttp handler (for `web.Server`) that serves the socket."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        prefix, _, name = request.path.rpartition("/")
        if request.method != "POST" or prefix != "/user":
            return web.Response(status=404)
        try:
            answer = await act(administration, name, orjson.loads(await request.read()))
        except orjson.JSONDecodeError:
            return web.Response(status=400)
        except Refusal as error:
            return web.Response(status=400, body=orjson.dumps({"zh": error.zh, "en": error.en}))
        return web.Response(body=orjson.dumps({"answer": answer}))

    return handle


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a short path of the same socket, by way of its opened folder where that is needed."""
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def bind_admin_socket(path: Path) -> socket.socket:
    """Return a listening socket at `path`, mode 0600, in place of one that a crash left behind.

    Called by the process that holds the database, so nobody else can be listening there.
    """
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Before listening, and so before anybody can connect.
    previous = os.umask(0o177)
    try:
        with _short(path) as short:
            listener.bind(short)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(previous)
    listener.listen()
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


async def call_running_server(path: Path, name: str, arguments: dict[str, Any]) -> Any:
    """Have the running server perform an act; NotRunning when there is none, else as `act`."""
    try:
        body = orjson.dumps(arguments)
    except orjson.JSONEncodeError:
        raise Refusal("输入的不是 UTF-8 文本。", "What was typed is not UTF-8 text.") from None
    with _short(path) as short:
        connector = UnixConnector(short)
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=600)) as http:
            try:
                async with http.post(f"http://localhost/user/{name}", data=body) as response:
                    answer = await response.read()
            except ClientConnectorError:
                raise NotRunning from None
            except ClientConnectionError:
                raise Refusal(
                    "服务器中途停止，不知道操作是否完成；请用 yizhan user list 查看。",
                    "The server stopped in the middle; see by yizhan user list what was done.",
                ) from None
    if response.status == 200:
        return orjson.loads(answer)["answer"]
    if response.status == 400:
        refusal = orjson.loads(answer)
        raise Refusal(refusal["zh"], refusal["en"])
    raise Refusal(
        f"服务器出错（{response.status}）；请看它的日志。",
        f"The server failed ({response.status}); see its log.",
    )
