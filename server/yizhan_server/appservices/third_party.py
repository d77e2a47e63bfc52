"""Third-party networks: what protocols there are, and whom and what they call how.

Spec: application service API, "Third-party networks"; client-server API, "Third-party Lookups".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from yizhan_server.appservices.calls import AppserviceCalls, CallFailed
from yizhan_server.appservices.registered import Appservices
from yizhan_server.appservices.registration import Appservice
from yizhan_server.protocol.errors import NotFound

JsonObject = dict[str, Any]

TIMEOUT_S = 10.0
KEPT_S = 600.0
"""How long the description of a protocol is kept: each client asks at its start."""
_LEGACY = "/_matrix/app/unstable"
_PROTOCOL_KEYS = ("user_fields", "location_fields", "icon", "instances")
_USER, _LOCATION = ("userid", "protocol", "fields"), ("alias", "protocol", "fields")


class ThirdParty:
    """Puts together what the application services say."""

    def __init__(self, services: Appservices, calls: AppserviceCalls) -> None:
        self._services = services
        self._calls = calls
        self._kept: dict[tuple[str, str], tuple[float, JsonObject]] = {}

    async def protocols(self) -> JsonObject:
        """Return all protocols with their descriptions."""
        names = dict.fromkeys(name for service in self._services for name in service.protocols)
        found = await asyncio.gather(*(self._find_protocol(name) for name in names))
        return {name: each for name, each in zip(names, found, strict=True) if each is not None}

    async def protocol(self, name: str) -> JsonObject:
        """Return the description of a protocol, or answer M_NOT_FOUND."""
        found = await self._find_protocol(name)
        if found is None:
            raise NotFound("No application service knows this protocol")
        return found

    async def users_of(self, protocol: str, fields: Mapping[str, str]) -> list[JsonObject]:
        """Return the users who are called so in a network, or answer M_NOT_FOUND."""
        return await self._look_up(
            self._speaking(protocol), ("user", protocol), fields, wanted=_USER
        )

    async def locations_of(self, protocol: str, fields: Mapping[str, str]) -> list[JsonObject]:
        """Return the rooms that are called so in a network, or answer M_NOT_FOUND."""
        return await self._look_up(
            self._speaking(protocol), ("location", protocol), fields, wanted=_LOCATION
        )

    async def of_user(self, user_id: str) -> list[JsonObject]:
        """Return what a Matrix user is called in other networks, or answer M_NOT_FOUND."""
        owners = [service for service in self._services if service.has_user(user_id)]
        return await self._look_up(owners, ("user",), {"userid": user_id}, wanted=_USER)

    async def of_alias(self, alias: str) -> list[JsonObject]:
        """Return what a room is called in other networks, or answer M_NOT_FOUND."""
        owners = [service for service in self._services if service.has_alias(alias)]
        return await self._look_up(owners, ("location",), {"alias": alias}, wanted=_LOCATION)

    def _speaking(self, protocol: str) -> list[Appservice]:
        return [service for service in self._services if protocol in service.protocols]

    async def _find_protocol(self, name: str) -> JsonObject | None:
        """Return the first description of a protocol, with the instances of all of them."""
        answers = await asyncio.gather(
            *(self._description(service, name) for service in self._speaking(name))
        )
        found = [answer for answer in answers if answer is not None]
        if not found:
            return None
        instances = [instance for answer in found for instance in answer["instances"]]
        return {**found[0], "instances": instances}

    async def _description(self, service: Appservice, name: str) -> JsonObject | None:
        until, kept = self._kept.get((service.id, name), (0.0, {}))
        if time.monotonic() < until:
            return kept
        answer = await self._ask(service, ("protocol", name), {})
        if not isinstance(answer, dict) or any(key not in answer for key in _PROTOCOL_KEYS):
            return None
        instances = answer["instances"]
        if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
            return None
        for instance in instances:
            if isinstance(instance.get("network_id"), str):
                instance["instance_id"] = instance_id(service.id, instance["network_id"])
        self._kept[service.id, name] = (time.monotonic() + KEPT_S, answer)
        return answer

    async def _look_up(
        self,
        services: Iterable[Appservice],
        path: tuple[str, ...],
        query: Mapping[str, str],
        *,
        wanted: tuple[str, ...],
    ) -> list[JsonObject]:
        answers = await asyncio.gather(*(self._ask(service, path, query) for service in services))
        found = [
            entry
            for answer in answers
            if isinstance(answer, list)
            for entry in answer
            if isinstance(entry, dict) and all(key in entry for key in wanted)
        ]
        if not found:
            raise NotFound("Nothing was found")
        return found

    async def _ask(
        self, service: Appservice, path: tuple[str, ...], query: Mapping[str, str]
    ) -> Any:
        """Return a service's answer as JSON; None when there is none."""
        if service.url is None:
            return None
        try:
            answer = await self._calls.call(
                service, "GET", ("thirdparty", *path), legacy=_LEGACY, query=query,
                timeout_s=TIMEOUT_S,
            )  # fmt: skip
        except CallFailed:
            return None
        return answer.json() if answer.is_success else None


def instance_id(service_id: str, network_id: str) -> str:
    """Return how clients name a service's network, in the form that they know from Synapse."""
    return f"{service_id}|{network_id}"
