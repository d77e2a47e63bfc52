"""`yizhan federation check NAME`: ask another server as the homeserver would; say what is wrong.

Each step is told when it works. The first that does not is told in words of the administrator, with
what to do about it and on which side; the program's own words for it follow in brackets.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from yizhan_config.language import say
from yizhan_config.outbound import read_bounded
from yizhan_config.tasks import Background
from yizhan_server.clock import SystemClock
from yizhan_server.federation_client.answers import parse_object
from yizhan_server.federation_client.client import open_federation_client
from yizhan_server.federation_client.errors import RemoteFailure, RemoteRefused
from yizhan_server.federation_client.faults import Fault, explain
from yizhan_server.federation_client.own_keys import load_own_keys
from yizhan_server.federation_client.requests import Question
from yizhan_server.federation_client.well_known import NoDelegation
from yizhan_server.protocol.identifiers import RoomAlias, ServerName
from yizhan_server.protocol.server_keys import InvalidServerKeys, check_server_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_config.settings import Settings
    from yizhan_server.federation_client.client import FederationClient, NameService

EXIT_UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""

MAX_CLOCK_DIFFERENCE_S = 60
"""Far less than what breaks anything, and more than a slow line adds."""

_MAX_VERSION_BYTES = 64 * 1024
_ALIAS = "yizhan-federation-check"
"""Of a room that exists nowhere: asking for it is harmless, and shows that one is let in."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a check needs."""

    name: ServerName
    settings: Settings
    client: FederationClient
    tell: Callable[[str], None]
    now_ms: int


def check(name: ServerName, settings: Settings, names: NameService | None = None) -> int:
    """Check how far this server gets with `name`; returns the exit status."""
    allow = settings.federation.allow
    if name not in allow and "*" not in allow:
        _tell(
            say(
                f"注意：本服务器的 federation.allow 中没有 {name}，列出之前不会互通。",
                f"Note: {name} is not in federation.allow of this server; nothing is exchanged "
                "until it is.",
            )
        )
        settings = replace(settings, federation=replace(settings.federation, allow=(*allow, name)))
    try:
        asyncio.run(_check(name, settings, names))
    except Fault as fault:
        print(say(f"失败：{fault.zh}", f"Failed: {fault.en}"), file=sys.stderr)  # noqa: T201
        return EXIT_UNAVAILABLE
    return 0


async def _check(name: ServerName, settings: Settings, names: NameService | None) -> None:
    own, clock = load_own_keys(settings), SystemClock()
    async with (
        Background() as background,
        # Without the database, which belongs to the running server.
        open_federation_client(
            settings.federation, own.server_name, own.signing_key, None, clock, background, names
        ) as client,
    ):
        run = Check(name, settings, client, _tell, clock.now_ms())
        for step in (_find, _version, _keys, _is_let_in):
            try:
                await step(run)
            except RemoteFailure as failure:
                raise explain(failure) from failure


async def _find(run: Check) -> None:
    """Tell where the server is, and what its domain says about that."""
    try:
        targets = await run.client.requests.find(run.name)
    finally:
        _tell_delegation(run)
    for target in targets:
        where = f"{target.host}:{target.port}"
        run.tell(
            say(
                f"地址  {where}，证书须属于 {target.tls_name}",
                f"found   at {where}, with a certificate for {target.tls_name}",
            )
        )


def _tell_delegation(run: Check) -> None:
    """Tell why the domain's well-known file does not count, unless there simply is none.

    That is no failure by itself, as servers are then looked for at port 8448, but often the cause
    of the one that follows.
    """
    why = run.client.requests.why_no_delegation(run.name)
    if why is None or (isinstance(why, NoDelegation) and why.is_absent):
        return
    url = f"https://{run.name}/.well-known/matrix/server"
    detail = str(why) or type(why).__name__
    run.tell(
        say(
            f"注意：{url} 不可用（{detail}），改用 SRV 记录或 8448 端口。"
            '如果对方应当有此文件，请对方修正：内容形如 {"m.server": "matrix.example.org:443"}。',
            f"Note: {url} is of no use ({detail}); SRV records or port 8448 count instead. If "
            'the other side has this file, it should read {"m.server": "matrix.example.org:443"}.',
        )
    )


async def _version(run: Check) -> None:
    """Ask for the version, which reaches the server at all, and compare the clocks."""
    question = Question("GET", "/_matrix/federation/v1/version", signed=False, urgent=True)
    requests = run.client.requests
    async with requests.open(run.name, question) as response, requests.failures_of(run.name):
        body, date = await read_bounded(response, _MAX_VERSION_BYTES), response.headers.get("Date")
    server = parse_object(run.name, body).get("server")
    known = server if isinstance(server, dict) else {}
    words = f"{known.get('name', '?')} {known.get('version', '')}".strip()
    run.tell(say(f"软件  {words}", f"runs    {words}"))
    _compare_clocks(run, date)


def _compare_clocks(run: Check, date: str | None) -> None:
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return  # it does not say
    difference_s = round(theirs.timestamp() - SystemClock().now_ms() / 1000)
    if abs(difference_s) <= MAX_CLOCK_DIFFERENCE_S:
        return
    ours = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    other = f"{theirs:%Y-%m-%d %H:%M:%S} UTC"
    raise Fault(
        f"两台服务器的时钟相差 {abs(difference_s)} 秒：{run.name} 的时间是 {other}，"
        f"本服务器的时间是 {ours}。请在不准的一方校准时间（例如启用 NTP："
        "timedatectl set-ntp true），否则密钥和证书会被当作已过期或尚未生效。",
        f"The clocks differ by {abs(difference_s)} seconds: {run.name} says {other}, this server "
        f"{ours}. Set the one that is wrong, by NTP for example (timedatectl set-ntp true), or "
        "keys and certificates will count as expired or not yet valid.",
    )


async def _keys(run: Check) -> None:
    """Ask for its keys, and check that they are its own and still valid."""
    answer = await run.client.keys.server_keys(run.name)
    try:
        keys, valid_until_ms = check_server_keys(answer, run.name, run.now_ms)
    except InvalidServerKeys as error:
        named = answer.get("server_name")
        other = f"，自称 {named}" if named != run.name else ""
        other_en = f"; it calls itself {named}" if named != run.name else ""
        raise Fault(
            f"{run.name} 公布的密钥不对（{error}{other}）。请对方检查 server_name 和签名密钥文件"
            "（secrets/signing.key）；重装后须恢复原来的密钥。",
            f"{run.name} publishes the wrong key ({error}{other_en}). The other side has to check "
            "its server_name and its key (secrets/signing.key); after a new installation the "
            "former key has to be put back.",
        ) from error
    if valid_until_ms <= run.now_ms:
        until = f"{datetime.fromtimestamp(valid_until_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        raise Fault(
            f"{run.name} 公布的密钥只到 {until} 有效，按本服务器的时钟已过期。"
            "请核对双方的时钟，或请对方更新密钥。",
            f"{run.name} publishes keys that were valid until {until}, which is over by the clock "
            "of this server. Compare the clocks, or have the other side renew its keys.",
        )
    key_ids = ", ".join(key_id for key_id, key in keys.items() if not key.is_old)
    run.tell(say(f"密钥  {key_ids}，签名正确", f"signs   with {key_ids}; its signature is right"))


async def _is_let_in(run: Check) -> None:
    """Ask something with a signature: whether the other side lets this server in, and knows it."""
    own = run.settings.server_name
    try:
        await run.client.queries.directory(run.name, RoomAlias(f"#{_ALIAS}:{run.name}"))
    except RemoteRefused as refusal:
        detail = f"{refusal.status} {refusal.errcode}: {refusal.error}"
        if refusal.status == 403:
            raise Fault(
                f"{run.name} 不允许本服务器访问（{detail}）。请对方把 {own} 写入其 federation.allow"
                " 并重新启动。",
                f"{run.name} does not let this server in ({detail}). The other side has to add "
                f"{own} to its federation.allow and start again.",
            ) from refusal
        if refusal.status == 401:
            raise Fault(
                f"{run.name} 不认可本服务器的签名（{detail}）。要么对方连不上本服务器、取不到密钥"
                f"（请在对方机器上运行 yizhan federation check {own}），要么本服务器换过密钥而没有"
                "保留旧密钥，请恢复 secrets/signing.key。",
                f"{run.name} does not accept this server's signature ({detail}). Either it cannot "
                "reach this server to get its key (run `yizhan federation check "
                f"{own}` over there), or the key here is not the former one: put "
                "secrets/signing.key back.",
            ) from refusal
        if refusal.status != 404:
            raise
    run.tell(say("互通  对方接受本服务器的请求", "lets    this server in"))


def _tell(text: str) -> None:
    print(text)  # noqa: T201 (this is what the command is for)
