"""People whose addresses are verified: a client's requests, and a browser that opens mails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer, Answer, Person
    from yizhan_testing.mail_server import Mail, MailServer

SECRET = "s3cret"


def wanted(address: str, attempt: int = 1, secret: str = SECRET, **more: Any) -> dict[str, Any]:
    """Return what a client asks with for a mail."""
    return {"client_secret": secret, "email": address, "send_attempt": attempt, **more}


@dataclass(frozen=True)
class MailReader:
    """Asks a server for mails, and reads them."""

    server: AccountServer
    mails: MailServer

    async def asks(self, purpose: str, address: str, attempt: int = 1, **more: Any) -> Answer:
        """Ask for a mail; `purpose` is the path before `/email/requestToken`."""
        path = f"/v3/{purpose}/email/requestToken"
        return await self.server.call("POST", path, wanted(address, attempt, **more))

    async def opens(self, link: str) -> tuple[int, str]:
        """Open a link as a browser (or a scanner) does; return status and page."""
        parts = urlsplit(link)
        async with self.server.http.get(f"{self.server.url}{parts.path}?{parts.query}") as page:
            return page.status, await page.text()

    async def agrees(self, link: str) -> tuple[int, str]:
        """Press the button of a page, whether or not it is shown."""
        parts = urlsplit(link)
        form = {name: value for name, (value,) in parse_qs(parts.query).items()}
        async with self.server.http.post(self.server.url + parts.path, data=form) as page:
            return page.status, await page.text()

    async def verifies(
        self, purpose: str, address: str, attempt: int = 1, **more: Any
    ) -> dict[str, str]:
        """Ask for a mail and agree; return what a client shows for it."""
        answer = await self.asks(purpose, address, attempt, **more)
        assert answer.status == 200, answer.json
        mail: Mail = self.mails.mails[-1]
        assert (await self.agrees(mail.link))[0] == 200
        return {"sid": answer.json["sid"], "client_secret": more.get("secret", SECRET)}

    async def adds(self, person: Person, address: str, **more: Any) -> Answer:
        """Verify an address and add it to an account."""
        shown = await self.verifies("account/3pid", address, **more)
        return await person.confirms("POST", "/v3/account/3pid/add", shown)


def email_stage(shown: dict[str, str], session: str | None = None) -> dict[str, Any]:
    """Return the stage of a confirmation in which a verified address is shown."""
    stage: dict[str, Any] = {"type": "m.login.email.identity", "threepid_creds": shown}
    return stage if session is None else {**stage, "session": session}


def email_login(address: str, password: str) -> dict[str, Any]:
    """Return what one signs in with by an address."""
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": address}
    return {"type": "m.login.password", "identifier": identifier, "password": password}
