"""Joining, leaving, knocking and inviting through another server.

Every one of these is something that a person waits for, so the server is asked even while it is
left alone otherwise.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Inviting to a room", "Leaving
Rooms (Rejecting Invites)", "Third-party invites", "Policy servers".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from yizhan_server.federation_client.answers import (
    RawPdu,
    parse_answer,
    parse_large_answer,
    parse_object,
    parse_typed,
)
from yizhan_server.federation_client.errors import RemoteRefused
from yizhan_server.federation_client.events import MAX_STATE_BYTES
from yizhan_server.federation_client.requests import Question, Requests, body_of, path_of
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import EventID, RoomID, ServerName, UserID

MAX_SIGNATURES_BYTES = 64 * 1024

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"


class Template(msgspec.Struct, frozen=True):
    """An event to be completed and signed."""

    event: JsonObject
    room_version: str = "1"
    """Servers that do not say it have rooms of versions 1 and 2 only."""


class SentJoin(msgspec.Struct, frozen=True):
    """The state of the room before the join, and its auth chain."""

    state: list[RawPdu]
    auth_chain: list[RawPdu]
    event: RawPdu = msgspec.Raw()
    """The join with the resident server's signature, where the room asks for that; else empty."""
    members_omitted: bool = False
    servers_in_room: list[str] | None = None


class _SignedEvent(msgspec.Struct):
    event: RawPdu


class _KnockState(msgspec.Struct):
    knock_room_state: list[RawPdu]


class RoomRequests:
    """One method for each endpoint; all raise the four kinds of RemoteFailure."""

    def __init__(self, requests: Requests, transfer_timeout_seconds: float) -> None:
        self._requests = requests
        self._transfer_timeout_seconds = transfer_timeout_seconds

    async def make_join(
        self, server: ServerName, room_id: RoomID, user_id: UserID, versions: Iterable[str]
    ) -> Template:
        """Return the join that `user_id` would send; `versions` are those that we know."""
        return await self._template(server, "make_join", room_id, user_id, versions)

    async def make_leave(self, server: ServerName, room_id: RoomID, user_id: UserID) -> Template:
        """Return the leave with which `user_id` would reject an invitation."""
        return await self._template(server, "make_leave", room_id, user_id)

    async def make_knock(
        self, server: ServerName, room_id: RoomID, user_id: UserID, versions: Iterable[str]
    ) -> Template:
        """Return the knock that `user_id` would send."""
        return await self._template(server, "make_knock", room_id, user_id, versions)

    async def send_join(
        self,
        server: ServerName,
        room_id: RoomID,
        event_id: EventID,
        event: JsonObject,
        *,
        omit_members: bool = False,
    ) -> SentJoin:
        """Send a signed join; the answer may hold tens of thousands of events."""
        question = Question(
            "PUT",
            path_of(f"{_V2}/send_join", room_id, event_id),
            [("omit_members", "true")] if omit_members else [],
            body_of(event),
            urgent=True,
            timeout_seconds=self._transfer_timeout_seconds,
            max_bytes=MAX_STATE_BYTES,
        )
        try:
            answer = await self._requests.ask(server, question)
        except RemoteRefused as refusal:
            if not refusal.is_unknown_endpoint:
                raise
            old = replace(question, path=path_of(f"{_V1}/send_join", room_id, event_id), query=[])
            answer = await self._requests.ask(server, old)
            return (await parse_large_answer(server, answer, tuple[Literal[200], SentJoin]))[1]
        return await parse_large_answer(server, answer, SentJoin)

    async def send_leave(
        self, server: ServerName, room_id: RoomID, event_id: EventID, event: JsonObject
    ) -> None:
        """Send a signed leave."""
        path = path_of(f"{_V2}/send_leave", room_id, event_id)
        try:
            await self._requests.ask(server, self._put(path, event))
        except RemoteRefused as refusal:
            if not refusal.is_unknown_endpoint:
                raise
            path = path_of(f"{_V1}/send_leave", room_id, event_id)
            await self._requests.ask(server, self._put(path, event))

    async def send_knock(
        self, server: ServerName, room_id: RoomID, event_id: EventID, event: JsonObject
    ) -> list[RawPdu]:
        """Send a signed knock; returns the state that describes the room."""
        path = path_of(f"{_V1}/send_knock", room_id, event_id)
        answer = await self._requests.ask(server, self._put(path, event))
        return parse_answer(server, answer, _KnockState).knock_room_state

    async def invite(
        self,
        server: ServerName,
        room_id: RoomID,
        event_id: EventID,
        event: JsonObject,
        *,
        room_version: str,
        room_state: Sequence[JsonObject],
    ) -> RawPdu:
        """Invite a user of `server`; returns the event with that server's signature added.

        Where it knows only the first form of this endpoint, and the room's version is 1 or 2,
        `invite_v1` is the next to try (status 400 or 404).
        """
        content: JsonObject = {
            "event": event,
            "room_version": room_version,
            "invite_room_state": list(room_state),
        }
        path = path_of(f"{_V2}/invite", room_id, event_id)
        answer = await self._requests.ask(server, self._put(path, content))
        return parse_answer(server, answer, _SignedEvent).event

    async def invite_v1(
        self,
        server: ServerName,
        room_id: RoomID,
        event_id: EventID,
        event: JsonObject,
        *,
        room_state: Sequence[JsonObject],
    ) -> RawPdu:
        """Invite a user of an old server to a room of version 1 or 2."""
        content = {**event, "unsigned": {"invite_room_state": list(room_state)}}
        path = path_of(f"{_V1}/invite", room_id, event_id)
        answer = await self._requests.ask(server, self._put(path, content))
        return parse_answer(server, answer, tuple[Literal[200], _SignedEvent])[1].event

    async def exchange_third_party_invite(
        self, server: ServerName, room_id: RoomID, event: JsonObject
    ) -> None:
        """Have a server of the room turn a third party's invitation into one of a user."""
        path = path_of(f"{_V1}/exchange_third_party_invite", room_id)
        await self._requests.ask(server, self._put(path, event))

    async def policy_signature(
        self, server: ServerName, event: JsonObject, *, timeout_seconds: float
    ) -> JsonObject:
        """Have the room's policy server sign an event; returns `signatures` of that server.

        It may have the name of this one.
        """
        question = Question(
            "POST",
            "/_matrix/policy/v1/sign",
            body=body_of(event),
            urgent=True,
            may_be_own=True,
            timeout_seconds=timeout_seconds,
            max_bytes=MAX_SIGNATURES_BYTES,
        )
        return parse_object(server, await self._requests.ask(server, question))

    async def _template(
        self,
        server: ServerName,
        endpoint: str,
        room_id: RoomID,
        user_id: UserID,
        versions: Iterable[str] = (),
    ) -> Template:
        path = path_of(f"{_V1}/{endpoint}", room_id, user_id)
        question = Question("GET", path, [("ver", version) for version in versions], urgent=True)
        return parse_typed(server, await self._requests.ask(server, question), Template)

    @staticmethod
    def _put(path: str, content: JsonObject) -> Question:
        return Question("PUT", path, body=body_of(content), urgent=True)
