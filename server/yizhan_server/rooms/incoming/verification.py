"""What can be said of an event without its room: format, signatures, content hash.

Spec: server-server API, "Checks performed on receipt of a PDU", 1 to 3; "Signing Events".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from yizhan_server.federation_client.answers import RawPdu, read_pdu
from yizhan_server.federation_client.errors import RemoteUnavailable
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import BadJson, Forbidden
from yizhan_server.protocol.event import InvalidPdu, Pdu, parse_pdu, with_content_hash_checked
from yizhan_server.protocol.identifiers import EventID, RoomID, ServerName, server_name_of
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.signing import InvalidSignature, NoKeys
from yizhan_server.rooms.turns import Turns

KeyUses = Mapping[ServerName, Mapping[tuple[str, ...], int]]


class SignatureChecks(Protocol):
    """Knows the keys of all servers."""

    async def check_events(
        self, events: Sequence[JsonObject], version: RoomVersion
    ) -> list[InvalidSignature | None]:
        """Return, for each event, what is wrong with the signatures that it needs."""
        ...

    async def fetch_keys(self, uses: KeyUses, version: RoomVersion) -> None:
        """Fetch those keys of servers that are not known."""
        ...


@dataclass(frozen=True, slots=True)
class BadlySigned:
    """An event without a signature that it needs."""

    event_id: EventID
    why: InvalidSignature


Refusal = InvalidPdu | BadlySigned


class Verification:
    """Verifies events."""

    def __init__(self, signatures: SignatureChecks) -> None:
        self._signatures = signatures

    async def verify(
        self, raws: Sequence[RawPdu | JsonObject], version: RoomVersion
    ) -> list[Pdu | Refusal]:
        """Return each event, redacted if its content hash is wrong, or why it is dropped."""
        turns = Turns()
        results: list[Pdu | Refusal] = []
        for raw in raws:
            results.append(read_format(raw, version))
            await turns.offer()
        return await self._checked(results, version, turns)

    async def _checked(
        self, results: list[Pdu | Refusal], version: RoomVersion, turns: Turns
    ) -> list[Pdu | Refusal]:
        """Check what has been parsed, in its place."""
        parsed = [(at, pdu) for at, pdu in enumerate(results) if isinstance(pdu, Pdu)]
        checked = await self._signatures.check_events([pdu.raw for _, pdu in parsed], version)
        for (at, pdu), wrong in zip(parsed, checked, strict=True):
            if wrong is None:
                results[at] = with_content_hash_checked(pdu, version)
            else:
                results[at] = BadlySigned(pdu.event_id, wrong)
            await turns.offer()
        return results

    async def fetch_keys(self, uses: KeyUses, version: RoomVersion) -> None:
        """Have at hand what keys can be had of servers whose many events are about to be checked.

        `uses` has the time of the latest event by server and by the IDs of its keys.
        """
        await self._signatures.fetch_keys(uses, version)

    async def verify_one(self, raw: JsonObject, version: RoomVersion) -> Pdu:
        """Return an event that came alone, as JSON: M_BAD_JSON, or M_FORBIDDEN if not signed."""
        try:
            pdu = parse_pdu(raw, version)
        except InvalidPdu as error:
            raise BadJson(str(error)) from None
        wrong = (await self._signatures.check_events([pdu.raw], version))[0]
        if wrong is not None:
            raise Forbidden(str(wrong))
        return with_content_hash_checked(pdu, version)

    async def verified(
        self,
        raws: Sequence[RawPdu | JsonObject],
        version: RoomVersion,
        room_id: RoomID,
        *,
        patient: bool = False,
    ) -> list[Pdu]:
        """Return those events that are right and of this room, in their order.

        With `patient`, RemoteUnavailable when one may be right and its server's keys are not to
        be had now.
        """
        parsed = await self.parsed(raws, version, room_id)
        return await self.signed(parsed, version, patient=patient)

    async def parsed(
        self,
        raws: Sequence[RawPdu | JsonObject],
        version: RoomVersion,
        room_id: RoomID,
        *,
        only: Collection[EventID] | None = None,
    ) -> list[Pdu]:
        """Return those that are events of this room, in their order; nothing is verified yet.

        With `only`, those of these IDs: whatever else there is takes no memory.
        """
        turns = Turns()
        found: list[Pdu] = []
        for raw in raws:
            pdu = read_format(raw, version)
            if (
                isinstance(pdu, Pdu)
                and pdu.room_id == room_id
                and (only is None or pdu.event_id in only)
            ):
                found.append(pdu)
            await turns.offer()
        return found

    async def signed(
        self, pdus: Sequence[Pdu], version: RoomVersion, *, patient: bool = False
    ) -> list[Pdu]:
        """Return those events that are rightly signed, redacted if their content hash is wrong.

        `patient` as above.
        """
        checked = await self._checked(list(pdus), version, Turns())
        if patient:
            for pdu, each in zip(pdus, checked, strict=True):
                if isinstance(each, BadlySigned) and isinstance(each.why, NoKeys):
                    server = server_name_of(pdu.sender)
                    assert server is not None, "the sender has been parsed"
                    raise RemoteUnavailable(server, "its keys are not to be had")
        return [each for each in checked if isinstance(each, Pdu)]


def read_format(raw: RawPdu | JsonObject, version: RoomVersion) -> Pdu | InvalidPdu:
    """Return the event, unverified, or in what way it does not have the format of its room."""
    try:
        read = read_pdu(raw, version) if isinstance(raw, RawPdu) else raw
        return parse_pdu(read, version)
    except InvalidPdu as error:
        return error
