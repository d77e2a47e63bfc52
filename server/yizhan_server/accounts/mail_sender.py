"""Handing mails to the administrator's mail server.

The standard library's `smtplib`, in threads of its own: a few mails an hour are worth no
dependency. A mail is tried once, while the person who asked for it waits: so they hear at once
when it did not go out, and no queue of other people's addresses is kept.

No address is ever logged, and nothing that a mail server says, for it likes to repeat them.
"""

from __future__ import annotations

import asyncio
import logging
import smtplib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import InvalidParam, LimitExceeded, MatrixError

if TYPE_CHECKING:
    import ssl

    from yizhan_config.settings import Email

log = logging.getLogger(__name__)

_AT_ONCE = 2
_MAX_WAITING = 32
_TIMEOUT_S = 10
"""For each step of the conversation with the mail server."""
_RETRY_AFTER_MS = 10_000


class MailSender:
    """Sends mails through one server; `close` ends its threads."""

    def __init__(self, settings: Email, password: str | None, tls: ssl.SSLContext) -> None:
        self._settings = settings
        self._password = password
        self._tls = tls
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mail")
        self._waiting = 0

    async def send(self, address: str, subject: str, text: str) -> None:
        """Return when the mail server has taken the mail over, or say why it was not sent.

        M_INVALID_PARAM when it takes none for this address, 503 when it could not be asked.
        """
        if self._waiting >= _MAX_WAITING:
            raise LimitExceeded(_RETRY_AFTER_MS)
        mail = self._compose(address, subject, text)
        self._waiting += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._deliver, mail)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            self._note(error, codes[0])
            if all(500 <= code < 600 for code in codes):
                raise InvalidParam("The mail server takes no mail for this address") from None
            raise _not_sent() from None
        except smtplib.SMTPResponseException as error:
            self._note(error, error.smtp_code)
            raise _not_sent() from None
        except (OSError, smtplib.SMTPException, ValueError) as error:
            self._note(error, None)
            raise _not_sent() from None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the threads; what has not begun is not sent."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compose(self, address: str, subject: str, text: str) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self._settings.from_address
        mail["To"] = address
        mail["Subject"] = subject
        mail["Date"] = formatdate()
        mail["Message-ID"] = make_msgid(domain=self._settings.from_address.rpartition("@")[2])
        # No answers of absent people, please (RFC 3834).
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(text)
        return mail

    def _deliver(self, mail: EmailMessage) -> None:
        server = self._connected()
        try:
            if self._settings.security == "starttls":
                server.starttls(context=self._tls)
            if self._password is not None:
                server.login(self._settings.username, self._password)
            server.send_message(mail)
            # The mail is out of our hands: however the farewell goes, it was sent.
            with suppress(OSError, smtplib.SMTPException):
                server.quit()
        finally:
            server.close()

    def _connected(self) -> smtplib.SMTP:
        host, port = self._settings.host, self._settings.port
        if self._settings.security == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT_S, context=self._tls)
        return smtplib.SMTP(host, port, timeout=_TIMEOUT_S)

    def _note(self, error: Exception, code: int | None) -> None:
        log.warning("a mail was not sent", extra={"why": type(error).__name__, "code": code})


def _not_sent() -> MatrixError:
    return MatrixError(503, "M_UNKNOWN", "The mail could not be sent; try again later")
