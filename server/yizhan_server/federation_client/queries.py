"""Asking a server about its users, its rooms and itself.

Spec: server-server API, "Querying for information", "Published Room Directory", "Spaces",
"Device Management", "End-to-End Encryption", "OpenID", "Server implementation".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from yizhan_server.federation_client.answers import parse_object, parse_typed
from yizhan_server.federation_client.requests import Question, Requests, body_of, path_of
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import RoomAlias, RoomID, ServerName, UserID

T = TypeVar("T")

_V1 = "/_matrix/federation/v1"


MAX_HIERARCHY_BYTES = 1024 * 1024
"""What is said of a space and of five hundred rooms in it; it is kept for a while."""


class DirectoryAnswer(msgspec.Struct, frozen=True):
    """Where an alias leads."""

    room_id: str
    servers: list[str]


class UserDevices(msgspec.Struct, frozen=True):
    """All devices of a user as of `stream_id`, the number that `m.device_list_update` counts."""

    user_id: str
    stream_id: int
    devices: list[JsonObject]
    master_key: JsonObject | None = None
    self_signing_key: JsonObject | None = None


class DeviceKeys(msgspec.Struct, frozen=True):
    """Keys by user, and where there is one for each device, by device."""

    device_keys: dict[str, dict[str, JsonObject]]
    master_keys: dict[str, JsonObject] = {}
    self_signing_keys: dict[str, JsonObject] = {}


class ClaimedKeys(msgspec.Struct, frozen=True):
    """One-time keys by user, device and `algorithm:id`."""

    one_time_keys: dict[str, dict[str, JsonObject]]


class _Userinfo(msgspec.Struct):
    sub: str


class QueryRequests:
    """One method for each endpoint; all raise the four kinds of RemoteFailure."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def directory(self, server: ServerName, alias: RoomAlias) -> DirectoryAnswer:
        """Return the room behind an alias of `server`."""
        question = Question("GET", f"{_V1}/query/directory", [("room_alias", alias)], urgent=True)
        return await self._typed(server, question, DirectoryAnswer)

    async def profile(
        self, server: ServerName, user_id: UserID, field: str | None = None
    ) -> JsonObject:
        """Return the profile of a user of `server`, or one field of it."""
        query = [("user_id", user_id), *([] if field is None else [("field", field)])]
        return await self._object(server, Question("GET", f"{_V1}/query/profile", query))

    async def public_rooms(self, server: ServerName, content: JsonObject) -> JsonObject:
        """Return a page of the published rooms; `content` is filter, limit and token."""
        question = Question("POST", f"{_V1}/publicRooms", body=body_of(content), urgent=True)
        return await self._object(server, question)

    async def hierarchy(
        self, server: ServerName, room_id: RoomID, *, suggested_only: bool = False
    ) -> JsonObject:
        """Return a space and its children, as far as this server may see them."""
        query = [("suggested_only", "true" if suggested_only else "false")]
        path = path_of(f"{_V1}/hierarchy", room_id)
        question = Question("GET", path, query, max_bytes=MAX_HIERARCHY_BYTES)
        return await self._object(server, question)

    async def user_devices(self, server: ServerName, user_id: UserID) -> UserDevices:
        """Return all devices of a user of `server`, with the keys that sign them."""
        question = Question("GET", path_of(f"{_V1}/user/devices", user_id))
        return await self._typed(server, question, UserDevices)

    async def device_keys(
        self, server: ServerName, devices: Mapping[UserID, Sequence[str]]
    ) -> DeviceKeys:
        """Return the keys of devices of users of `server`; no device means all of them."""
        wanted = {user: list(ids) for user, ids in devices.items()}
        question = Question("POST", f"{_V1}/user/keys/query", body=body_of({"device_keys": wanted}))
        return await self._typed(server, question, DeviceKeys)

    async def claim_keys(
        self, server: ServerName, wanted: Mapping[UserID, Mapping[str, str]]
    ) -> ClaimedKeys:
        """Take one-time keys; `wanted` is by user and device the algorithm."""
        plain = {user: dict(devices) for user, devices in wanted.items()}
        question = Question(
            "POST", f"{_V1}/user/keys/claim", body=body_of({"one_time_keys": plain})
        )
        return await self._typed(server, question, ClaimedKeys)

    async def openid_userinfo(self, server: ServerName, token: str) -> str:
        """Return whose OpenID token this is. The caller checks that it is a user of `server`."""
        question = Question(
            "GET", f"{_V1}/openid/userinfo", [("access_token", token)], signed=False, urgent=True
        )
        return (await self._typed(server, question, _Userinfo)).sub

    async def version(self, server: ServerName) -> JsonObject:
        """Return what the server says it is; both fields are optional texts."""
        question = Question("GET", f"{_V1}/version", signed=False, urgent=True)
        return await self._object(server, question)

    async def _object(self, server: ServerName, question: Question) -> JsonObject:
        return parse_object(server, await self._requests.ask(server, question))

    async def _typed(self, server: ServerName, question: Question, kind: type[T]) -> T:
        return parse_typed(server, await self._requests.ask(server, question), kind)
