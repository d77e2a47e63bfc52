"""A CAS server of tests: tickets that are good once, for the service that they were made for.

Whoever is in `people` may sign in; `signs_in` does what a person does at its login page. An entry
may say instead, as XML, what is answered about a ticket of that person.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from aiohttp import web

_ANSWER = "<cas:serviceResponse xmlns:cas='http://www.yale.edu/tp/cas'>{}</cas:serviceResponse>"


def success(user: str, attributes: str = "", more: str = "") -> str:
    """Return the answer for a good ticket."""
    return _ANSWER.format(
        f"<cas:authenticationSuccess>\n  <cas:user>{escape(user)}</cas:user>"
        f"<cas:attributes>{attributes}</cas:attributes>{more}</cas:authenticationSuccess>"
    )


@dataclass
class CasServer:
    """A running CAS server."""

    people: Mapping[str, str]
    url: str = ""
    asked: list[tuple[str, bool]] = field(default_factory=list)
    """The validations: their path, and whether the ticket was good."""
    _tickets: dict[str, tuple[str, str]] = field(default_factory=dict)

    def signs_in(self, location: str, name: str) -> str:
        """Sign in at the page that a browser was sent to; return where that sends it back."""
        assert location.startswith(f"{self.url}/login?"), location
        service = parse_qs(urlsplit(location).query)["service"][0]
        ticket = f"ST-{len(self._tickets)}"
        self._tickets[ticket] = (name, service)
        return f"{service}&ticket={ticket}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a validation."""
        ticket, service = request.query["ticket"], request.query["service"]
        name, made_for = self._tickets.pop(ticket, ("", ""))
        good = bool(name) and made_for == service
        self.asked.append((request.path, good))
        failure = "<cas:authenticationFailure code='INVALID_TICKET'>no</cas:authenticationFailure>"
        text = self.people[name] if good else _ANSWER.format(failure)
        return web.Response(text=text, content_type="application/xml")


@asynccontextmanager
async def cas_server(people: Mapping[str, str]) -> AsyncIterator[tuple[CasServer, dict[str, Any]]]:
    """Run one on the loopback; yields it with the settings of a homeserver that trusts it."""
    server = CasServer(people)
    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host = f"127.0.0.1:{runner.addresses[0][1]}"
        server.url = f"http://{host}/cas"
        yield server, {"sso.cas.server_url": server.url, "outbound.allow": (host,)}
    finally:
        await runner.cleanup()
