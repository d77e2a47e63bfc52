"""A mail server of a test: real SMTP, with STARTTLS and passwords, keeping what it is given.

Spec: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH).
"""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

USER, PASSWORD = "yizhan", "mail s3cret"


@dataclass(frozen=True)
class Mail:
    """One mail as it arrived."""

    sender: str
    recipient: str
    subject: str
    text: str
    was_encrypted: bool
    user: str | None

    @property
    def link(self) -> str:
        """The one link in it."""
        (link,) = re.findall(r"http\S+", self.text)
        return str(link)

    @property
    def has_link(self) -> bool:
        return "http" in self.text


class MailServer:
    """Takes mails; `refusing` answers every recipient with that code.

    One that is not polite knows no farewell.
    """

    def __init__(self, tls: ssl.SSLContext | None, *, from_the_start: bool) -> None:
        self.mails: list[Mail] = []
        self.refusing: int | None = None
        self.is_polite = True
        self.port = 0
        self.tls = tls
        self.from_the_start = from_the_start
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls if self.from_the_start else None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def last_to(self, recipient: str) -> Mail:
        """Return the newest mail to an address."""
        return [mail for mail in self.mails if mail.recipient == recipient][-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Conversation(self, reader, writer).hold()
        except ConnectionError:
            pass
        finally:
            writer.close()


class _Conversation:
    def __init__(
        self, server: MailServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._encrypted = server.from_the_start
        self._user: str | None = None
        self._sender = ""
        self._recipient = ""

    def _say(self, line: str) -> None:
        self._writer.write(f"{line}\r\n".encode())

    async def hold(self) -> None:
        self._say("220 mail.test")
        while line := (await self._reader.readline()).decode().strip():
            verb, _, rest = line.partition(" ")
            if not await self._answer(verb.upper(), rest):
                return

    async def _answer(self, verb: str, rest: str) -> bool:
        match verb:
            case "EHLO":
                self._say("250-mail.test")
                self._say("250 AUTH PLAIN" if self._encrypted else "250 STARTTLS")
            case "STARTTLS":
                self._say("220 go on")
                tls = self._server.tls
                assert tls is not None
                await self._writer.start_tls(tls)
                self._encrypted = True
            case "AUTH":
                _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                is_right = (user, password) == (USER, PASSWORD)
                self._user = user if is_right else None
                self._say("235 welcome" if is_right else "535 wrong password")
            case "MAIL":
                self._sender = _address(rest)
                self._say("250 ok")
            case "RCPT":
                self._recipient = _address(rest)
                refusing = self._server.refusing
                self._say("250 ok" if refusing is None else f"{refusing} no {self._recipient}")
            case "DATA":
                self._say("354 go on")
                self._keep(await self._reader.readuntil(b"\r\n.\r\n"))
                self._say("250 ok")
            case "QUIT":
                self._say("221 bye" if self._server.is_polite else "500 what?")
                return False
            case _:
                self._say("250 ok")
        return True

    def _keep(self, data: bytes) -> None:
        mail = email.message_from_bytes(data[:-3], policy=email.policy.default)
        self._server.mails.append(
            Mail(
                self._sender, self._recipient, str(mail["Subject"]), mail.get_content(),
                self._encrypted, self._user,
            )
        )  # fmt: skip


def _address(rest: str) -> str:
    found = re.search("<(.*?)>", rest)
    assert found is not None
    return found[1]


@asynccontextmanager
async def mail_server(
    tls: ssl.SSLContext | None = None, *, from_the_start: bool = False
) -> AsyncIterator[MailServer]:
    """Run a mail server; with `tls` by STARTTLS, or from the start."""
    server = MailServer(tls, from_the_start=from_the_start)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
