"""Asking servers of a room to be let in, to knock, or to decline: the side of the newcomer.

Whatever a resident server sends is verified like any other event: the template is only a
suggestion, and the state is judged event by event before anybody here sees the room.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting
Invites)".
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from yizhan_database import Database
from yizhan_server.clock import Clock
from yizhan_server.federation_client.answers import RawPdu, read_pdu
from yizhan_server.federation_client.errors import (
    RemoteFailure,
    RemoteMisbehaved,
    RemoteRefused,
    told_to_client,
)
from yizhan_server.federation_client.events import EventRequests
from yizhan_server.federation_client.rooms import RoomRequests, SentJoin, Template
from yizhan_server.protocol.canonical_json import JsonObject, NotCanonical, check_nesting
from yizhan_server.protocol.errors import AuthRuleRejection, MatrixError
from yizhan_server.protocol.event import InvalidPdu, Pdu, parse_pdu
from yizhan_server.protocol.hashes import reference_hash, unpadded_base64
from yizhan_server.protocol.identifiers import (
    EventID,
    RoomID,
    ServerName,
    UserID,
    is_user_id,
    server_name_of,
)
from yizhan_server.protocol.policy_server import with_signatures
from yizhan_server.protocol.room_version import ROOM_VERSIONS, EventIdFormat, RoomVersion
from yizhan_server.protocol.signing import SigningKey, hash_and_sign_event
from yizhan_server.rooms.handshakes.out_of_band import OutOfBand
from yizhan_server.rooms.handshakes.under_way import JoinsUnderWay
from yizhan_server.rooms.handshakes.versions import Versions
from yizhan_server.rooms.incoming.adoption import Adoption, StrangeRoom
from yizhan_server.rooms.incoming.placing import Outcome
from yizhan_server.rooms.incoming.reception import Reception
from yizhan_server.rooms.incoming.state_intake import StateIntake
from yizhan_server.rooms.incoming.verification import Verification
from yizhan_server.rooms.restricted_joins import AUTHORISER
from yizhan_server.rooms.room import Room
from yizhan_server.storage import rooms as stored_rooms

log = logging.getLogger(__name__)

MAX_SERVERS = 10
"""Servers that are asked before a person is told that it does not work."""

MAX_SHOWN = 100
"""State events that come with an invitation or knock; a dozen are usual."""

FROM_TEMPLATE = ("room_id", "depth", "prev_events", "auth_events")


class Joining:
    """Joins, knocks and declines on behalf of users of this server."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        requests: RoomRequests,
        events: EventRequests,
        verification: Verification,
        intake: StateIntake,
        adoption: Adoption,
        versions: Versions,
        reception: Reception,
        out_of_band: OutOfBand,
        under_way: JoinsUnderWay,
        server_name: ServerName,
        signing_key: SigningKey,
    ) -> None:
        self._db = db
        self._clock = clock
        self._requests = requests
        self._events = events
        self._verification = verification
        self._intake = intake
        self._adoption = adoption
        self._versions = versions
        self._reception = reception
        self._out_of_band = out_of_band
        self._server_name = server_name
        self._signing_key = signing_key
        self._under_way = under_way
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, room_id: str) -> asyncio.Lock:
        """Return the lock that is held while a room is joined through others."""
        return self._locks.setdefault(room_id, asyncio.Lock())

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        servers: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> Room:
        """Join through the first of `servers` that lets the user in. MatrixError if none does."""
        return await self._first(servers, lambda each: self._join(each, user_id, room_id, content))

    async def join_with_consent(
        self,
        user_id: UserID,
        room: Room,
        servers: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> Room:
        """Join a room that is here with the consent of the first of `servers` that gives it.

        What it says of the room's state is not looked at: it has no say in what is known here.
        """
        return await self._first(servers, lambda each: self._consent(each, user_id, room, content))

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        servers: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> Room:
        """Knock through the first of `servers` that takes it. MatrixError if none does."""
        return await self._first(servers, lambda each: self._knock(each, user_id, room_id, content))

    async def decline(
        self,
        user_id: UserID,
        room: Room,
        servers: Sequence[ServerName],
        content: Mapping[str, Any],
        declined: Pdu,
    ) -> None:
        """Decline an invitation, or take a knock back: here in any case, there if possible."""
        for server in servers[:MAX_SERVERS]:
            try:
                template = await self._requests.make_leave(server, room.room_id, user_id)
                leave = self._completed(server, template, user_id, room.room_id, content)
                await self._requests.send_leave(server, room.room_id, leave.event_id, leave.raw)
            except (RemoteFailure, InvalidPdu) as failure:
                log.info("leave not taken", extra={"server": server, "why": str(failure)})
                continue
            await self._out_of_band.record(room, leave)
            return
        # Nobody there learns of it, but the person has an answer.
        event = {
            "room_id": room.room_id,
            "depth": declined.depth + 1,
            "prev_events": _references(declined, room.version),
            "auth_events": _references(declined, room.version),
        }
        await self._out_of_band.record(room, self._signed(event, user_id, content, room.version))

    async def _first(
        self, servers: Sequence[ServerName], attempt: Callable[[ServerName], Awaitable[Room]]
    ) -> Room:
        failure: RemoteFailure | None = None
        for server in servers[:MAX_SERVERS]:
            try:
                return await attempt(server)
            except RemoteFailure as error:
                log.info("handshake failed", extra={"server": server, "why": str(error)})
                # What a server in the room says counts more than that another is away.
                if failure is None or isinstance(error, RemoteRefused):
                    failure = error
        raise _as_matrix_error(failure)

    async def _join(
        self, server: ServerName, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]
    ) -> Room:
        with self._under_way.follow(server, room_id, user_id) as under_way:
            join, sent, version = await self._sent(server, user_id, room_id, content)
            room = await self._room(server, room_id, version, sent.state)
            with self._adoption.coming(room):
                told = await self._intake.take(
                    room.nid, room_id, version,
                    chain=sent.auth_chain, state=sent.state, note=under_way.note,
                )  # fmt: skip
                del sent
                keep_ends = await self._is_ahead_of(server, room, told.event_ids)
                try:
                    await self._adoption.adopt(room, join, told.state, version, keep_ends=keep_ends)
                except AuthRuleRejection as rejection:
                    raise RemoteMisbehaved(
                        server, f"its state does not permit the join: {rejection.rule}"
                    ) from None
                except StrangeRoom as error:
                    raise RemoteMisbehaved(server, str(error)) from None
            under_way.ends()
        return room

    async def _sent(
        self, server: ServerName, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]
    ) -> tuple[Pdu, SentJoin, RoomVersion]:
        """Return the join that a server has taken, with its signature, and what it answered."""
        template = await self._requests.make_join(server, room_id, user_id, ROOM_VERSIONS)
        version = _version(server, template)
        join = self._completed(server, template, user_id, room_id, content)
        sent = await self._requests.send_join(server, room_id, join.event_id, join.raw)
        if sent.event:
            join = await self._countersigned(server, join, sent.event, version)
        return join, sent, version

    async def _consent(
        self, server: ServerName, user_id: UserID, room: Room, content: Mapping[str, Any]
    ) -> Room:
        join, _, version = await self._sent(server, user_id, room.room_id, content)
        if version is not room.version:
            raise RemoteMisbehaved(server, "not the version of the room")
        outcome = (await self._reception.receive_verified(server, room, [join])).get(join.event_id)
        if outcome is not Outcome.ACCEPTED:
            raise RemoteMisbehaved(server, "the room does not permit the join that it let happen")
        return room

    async def _is_ahead_of(
        self, server: ServerName, room: Room, known: Collection[EventID]
    ) -> bool:
        """Whether we know of users of ours what the server that lets one in has yet to hear.

        Such as that they were banned. All others will know that, and think that the room goes on
        without us; so must we, who would hear of nothing any more.
        """
        if not room.committed.extremities:
            return False
        for user_id in await stored_rooms.members_of_server(self._db, room.nid, self._server_name):
            event = await room.state_event("m.room.member", user_id)
            if event is None or event.pdu.event_id in known:
                continue
            try:
                await self._events.event(server, event.pdu.event_id)
            except RemoteRefused:
                return True
        return False

    async def _knock(
        self, server: ServerName, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]
    ) -> Room:
        template = await self._requests.make_knock(server, room_id, user_id, ROOM_VERSIONS)
        version = _version(server, template)
        knock = self._completed(server, template, user_id, room_id, content)
        raws = await self._requests.send_knock(server, room_id, knock.event_id, knock.raw)
        room = await self._room(server, room_id, version, raws)
        await self._out_of_band.record(room, knock, shown_state(raws, version))
        return room

    async def _room(
        self, server: ServerName, room_id: RoomID, version: RoomVersion, told: Sequence[RawPdu]
    ) -> Room:
        room = await self._versions.find_room(room_id, version, told)
        if room is None:
            raise RemoteMisbehaved(server, "not the version of the room")
        return room

    async def _countersigned(
        self, server: ServerName, join: Pdu, raw: RawPdu, version: RoomVersion
    ) -> Pdu:
        """Return the join with the signature of the server that authorised it."""
        found = await self._verification.verified([raw], version, join.room_id)
        if not found or found[0].event_id != join.event_id:
            raise RemoteMisbehaved(server, "not the join that was sent")
        # With another content it has been redacted: that is the same event, of which less is left.
        return with_signatures(join, found[0].raw["signatures"])

    def _completed(
        self,
        server: ServerName,
        template: Template,
        user_id: UserID,
        room_id: RoomID,
        content: Mapping[str, Any],
    ) -> Pdu:
        """Return the signed event that a template asks for, if it is the right one."""
        version = _version(server, template)
        given = template.event
        suggested = given.get("content")
        if (
            given.get("type") != "m.room.member"
            or given.get("room_id") != room_id
            or given.get("sender") != user_id
            or given.get("state_key") != user_id
            or not isinstance(suggested, dict)
            or suggested.get("membership") != content["membership"]
        ):
            raise RemoteMisbehaved(server, "not the template that was asked for")
        authoriser = suggested.get(AUTHORISER)
        if isinstance(authoriser, str):
            if server_name_of(authoriser) == self._server_name:
                # Who of ours lets somebody in is decided here; signing the join would say so.
                raise RemoteMisbehaved(server, "consent in the name of a user of ours")
            content = {**content, AUTHORISER: authoriser}
        event = {key: given[key] for key in FROM_TEMPLATE if key in given}
        try:
            return self._signed(event, user_id, content, version)
        except (InvalidPdu, KeyError, TypeError) as error:
            raise RemoteMisbehaved(server, f"a template of the wrong form: {error}") from None

    def _signed(
        self, event: JsonObject, user_id: UserID, content: Mapping[str, Any], version: RoomVersion
    ) -> Pdu:
        raw: JsonObject = {
            **event,
            "type": "m.room.member",
            "sender": user_id,
            "state_key": user_id,
            "content": dict(content),
            "origin_server_ts": self._clock.now_ms(),
        }
        if version.event_id_format is EventIdFormat.FIELD:
            raw["event_id"] = EventID(f"${secrets.token_urlsafe(18)}:{self._server_name}")
        raw = hash_and_sign_event(raw, version, self._server_name, self._signing_key)
        return parse_pdu(raw, version)


def shown_state(raws: Sequence[RawPdu | JsonObject], version: RoomVersion) -> list[JsonObject]:
    """Return what came with an invitation or a knock, in the form that clients are shown.

    Older servers send stripped events, others whole ones; nothing of it is believed.
    """
    shown = []
    for raw in raws[:MAX_SHOWN]:
        try:
            event = read_pdu(raw, version) if isinstance(raw, RawPdu) else raw
        except InvalidPdu:
            continue
        kind, sender, content = event.get("type"), event.get("sender"), event.get("content")
        state_key = event.get("state_key")
        if (
            isinstance(kind, str)
            and is_user_id(sender)
            and isinstance(content, dict)
            and isinstance(state_key, str)
            and _can_be_shown(content)
        ):
            shown.append(
                {"type": kind, "sender": sender, "state_key": state_key, "content": content}
            )
    return shown


def _can_be_shown(content: JsonObject) -> bool:
    try:
        check_nesting(content)
    except NotCanonical:
        return False
    return True


def _version(server: ServerName, template: Template) -> RoomVersion:
    version = ROOM_VERSIONS.get(template.room_version)
    if version is None:
        raise RemoteMisbehaved(server, "a room version that was not offered")
    return version


def _references(pdu: Pdu, version: RoomVersion) -> list[Any]:
    if version.references_carry_hashes:
        return [[pdu.event_id, {"sha256": unpadded_base64(reference_hash(pdu.raw, version))}]]
    return [pdu.event_id]


def _as_matrix_error(failure: RemoteFailure | None) -> MatrixError:
    """Return what a client is told when no server helped."""
    if failure is None:
        return MatrixError(404, "M_NOT_FOUND", "No server of this room is known; name one with via")
    return told_to_client(failure)
