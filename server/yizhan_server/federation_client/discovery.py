"""From a server name to where its requests are sent, and whose certificate must be shown there.

Spec: server-server API, "Resolving server names".
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakValueDictionary

from yizhan_config.outbound import OutboundSession
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import RemoteUnavailable
from yizhan_server.federation_client.places import DEFAULT_PORT, Place, Target
from yizhan_server.federation_client.srv import NoService, SrvLookup
from yizhan_server.federation_client.well_known import MAX_REMEMBERED, WellKnown
from yizhan_server.protocol.identifiers import InvalidIdentifier, ServerName

RECONSIDER_MS = 300_000
"""A server that cannot be reached is looked for anew, unless it just has been."""

_SERVICES = ("_matrix-fed._tcp", "_matrix._tcp")


@dataclass(frozen=True, slots=True)
class _Route:
    targets: tuple[Target, ...]
    found_ms: int
    until_ms: int


class Discovery:
    """Finds servers by their names; remembers where they are."""

    def __init__(self, clock: Clock, well_known: WellKnown, srv: SrvLookup) -> None:
        self._clock = clock
        self._well_known = well_known
        self._srv = srv
        self._routes: OrderedDict[ServerName, _Route] = OrderedDict()
        self._under_way: WeakValueDictionary[ServerName, asyncio.Lock] = WeakValueDictionary()

    async def find(self, server: ServerName, session: OutboundSession) -> tuple[Target, ...]:
        """Return where `server` may be reached, to be tried in this order; at least one.

        `session` is what asks the well-known file. Raises RemoteUnavailable.
        """
        lock = self._under_way.setdefault(server, asyncio.Lock())
        async with lock:  # many rooms may want the same server at once
            route = self._routes.get(server)
            if route is None or self._clock.now_ms() >= route.until_ms:
                route = await self._look_up(server, session)
                self._routes[server] = route
                if len(self._routes) > MAX_REMEMBERED:
                    self._routes.popitem(last=False)
        return route.targets

    def reconsider(self, server: ServerName) -> None:
        """Forget where `server` was, since it is not there (any more)."""
        route = self._routes.get(server)
        if route is not None and self._clock.now_ms() >= route.found_ms + RECONSIDER_MS:
            del self._routes[server]
            self._well_known.expire(Place.parse(server).host)

    def why_no_delegation(self, server: ServerName) -> Exception | None:
        """Return what was wrong with the well-known file of `server` when it was last asked."""
        return self._well_known.failure(Place.parse(server).host)

    async def _look_up(self, server: ServerName, session: OutboundSession) -> _Route:
        try:
            place = Place.parse(server)
        except InvalidIdentifier:
            raise RemoteUnavailable(server, "not the name of a server") from None
        if place.is_literal or place.port is not None:  # steps 1 and 2
            now_ms = self._clock.now_ms()
            return _Route((_direct(place),), now_ms, now_ms + RECONSIDER_MS)
        delegate = await self._well_known.find(place.host, session)  # step 3
        found_ms, until_ms = self._clock.now_ms(), self._well_known.again_ms(place.host)
        place = place if delegate is None else delegate
        if place.is_literal or place.port is not None:  # steps 3.1 and 3.2
            return _Route((_direct(place),), found_ms, until_ms)
        targets, lifetime_s = await self._records(server, place)
        until_ms = min(until_ms, found_ms + lifetime_s * 1000)
        return _Route(targets or (_direct(place),), found_ms, until_ms)  # or steps 3.5 and 6

    async def _records(self, server: ServerName, place: Place) -> tuple[tuple[Target, ...], int]:
        """Return where SRV records lead, if anywhere, and for how many seconds that holds."""
        lifetimes_s = []
        for service in _SERVICES:  # steps 3.3 and 3.4, or 4 and 5
            try:
                answer = await self._srv.find(f"{service}.{place.host}")
            except NoService:
                raise RemoteUnavailable(server, "its domain says that it has none") from None
            lifetimes_s.append(answer.lifetime_s)
            if answer.failed:
                # The next one would fail too, as slowly. What is known of before still counts.
                before = self._routes.get(server)
                if before is None or before.targets[0].host_header != place.text:
                    return (), min(lifetimes_s)
                return before.targets, min(lifetimes_s)
            if answer.targets:
                targets = tuple(
                    Target(host, port, place.text, place.host) for host, port in answer.targets
                )
                return targets, min(lifetimes_s)
        return (), min(lifetimes_s)


def _direct(place: Place) -> Target:
    """Return the host of the name itself, at its port or the default one."""
    return Target(place.host, place.port or DEFAULT_PORT, place.text, place.host)
