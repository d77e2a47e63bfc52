"""The conversation with a CAS server, as many universities and institutions have one.

A browser is sent to it with the address of a page of ours (the *service*), and comes back with a
ticket that is good once, for that service, and that we redeem. Redirecting clients of the older
kind come back to the address that Synapse has for this, so that what is registered at a CAS
server need not change.

Spec: CAS Protocol 3.0, sections 2.1 and 2.5-2.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from xml.parsers import expat

import aiohttp

from yizhan_config.outbound import OutboundRefused, ResponseTooLarge, read_bounded
from yizhan_server.sso.provider import Attempt, ProviderFailed

if TYPE_CHECKING:
    from yizhan_config.outbound import OutboundSession
    from yizhan_config.settings import Cas as CasSettings

USER = "user"
"""The claim that holds the name that the CAS server has for somebody."""

TICKET_PATH = "/_matrix/client/r0/login/cas/ticket"

_NAMESPACE = "http://www.yale.edu/tp/cas"
_MAX_ANSWER_BYTES = 65_536
_TIMEOUT_S = 15


class CasServer:
    """One CAS server. `base_url` is ours, `callback` the page that browsers come back to."""

    def __init__(
        self, settings: CasSettings, base_url: str, callback: str, outbound: OutboundSession
    ) -> None:
        self._settings = settings
        self._base_url = base_url
        self._callback = callback
        self._outbound = outbound

    @property
    def issuer(self) -> str:
        """What its names are remembered under."""
        return self._settings.server_url

    async def authorization_url(self, attempt: Attempt, *, again: bool) -> str:
        """Return where the browser is sent (to be asked `again`, if so)."""
        return self._login_url(self._service(attempt), again=again)

    async def redeem(self, attempt: Attempt, code: str) -> dict[str, Any]:
        """Return what the ticket `code` says of who signed in; ProviderFailed."""
        return await self._validate(self._service(attempt), code)

    def login_url_for_client(self, redirect_url: str) -> str:
        """Return where the browser of a client of the older kind is sent."""
        return self._login_url(self._service_for_client(redirect_url), again=False)

    async def redeem_for_client(self, redirect_url: str, ticket: str) -> dict[str, Any]:
        """Return what a ticket says that came back for such a client; ProviderFailed."""
        return await self._validate(self._service_for_client(redirect_url), ticket)

    def _service(self, attempt: Attempt) -> str:
        return f"{self._callback}?{urlencode({'state': attempt.state})}"

    def _service_for_client(self, redirect_url: str) -> str:
        return f"{self._base_url}{TICKET_PATH}?redirectUrl={quote(redirect_url, safe='')}"

    def _login_url(self, service: str, *, again: bool) -> str:
        asked = {"service": service, **({"renew": "true"} if again else {})}
        return f"{self._settings.server_url}/login?{urlencode(asked)}"

    async def _validate(self, service: str, ticket: str) -> dict[str, Any]:
        asked = urlencode({"service": service, "ticket": ticket})
        url = f"{self._settings.server_url}/{self._settings.validation}?{asked}"
        try:
            async with self._outbound.request("GET", url, timeout_seconds=_TIMEOUT_S) as response:
                body = await read_bounded(response, _MAX_ANSWER_BYTES)
        except OutboundRefused as error:
            raise ProviderFailed(f"{error}; is it listed in outbound.allow?") from None
        except (aiohttp.ClientError, TimeoutError, ResponseTooLarge, OSError) as error:
            raise ProviderFailed(f"it does not answer: {type(error).__name__}") from None
        if response.status != 200:
            raise ProviderFailed(f"it answered {response.status}")
        return parse_validation(body)


def parse_validation(body: bytes) -> dict[str, Any]:
    """Return the claims of a validation's answer: `sub`, `user` and attributes; ProviderFailed.

    A ticket that came through proxies is refused: the person would have signed in to another
    program, which then signs in to us.
    """
    texts = _texts_by_path(body)
    success = ("serviceResponse", "authenticationSuccess")
    if not any(path[:2] == success for path in texts):
        raise ProviderFailed("the ticket is not valid")
    if any(path[:3] == (*success, "proxies") for path in texts):
        raise ProviderFailed("the ticket was made for another program")
    names = texts.get((*success, USER), [])
    name = names[0].strip() if len(names) == 1 else ""
    if not name or len(name) > 255 or "\0" in name:
        raise ProviderFailed("it names nobody")
    attributes = {
        path[3]: values[0].strip()
        for path, values in texts.items()
        if len(path) == 4 and path[:3] == (*success, "attributes")
    }
    return {**attributes, "sub": name, USER: name}


def _texts_by_path(body: bytes) -> dict[tuple[str, ...], list[str]]:
    """Return the text of each element of CAS's namespace, by the names that lead to it."""
    texts: dict[tuple[str, ...], list[str]] = {}
    path: list[str] = []

    def start(name: str, _: dict[str, str]) -> None:
        namespace, _separator, local = name.rpartition(" ")
        path.append(local if namespace == _NAMESPACE else f"{{{namespace}}}{local}")
        texts.setdefault(tuple(path), []).append("")

    def end(_: str) -> None:
        path.pop()

    def data(text: str) -> None:
        texts[tuple(path)][-1] += text

    def refuse(*_: object) -> None:
        # Without a document type there are no entities that could grow without end.
        raise ProviderFailed("its answer has a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = data, refuse
    try:
        parser.Parse(body, True)  # noqa: FBT003 - expat's signature
    except expat.ExpatError:
        raise ProviderFailed("its answer is not XML") from None
    return texts
