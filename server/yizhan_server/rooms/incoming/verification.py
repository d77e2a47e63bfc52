"""What can be said of an event without its room: format, signatures, content hash.

Spec: server-server API, "Checks performed on receipt of a PDU", 1 to 3; "Signing Events".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from yizhan_server.federation_client.answers import RawPdu, read_pdu
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import BadJson, Forbidden
from yizhan_server.protocol.event import InvalidPdu, Pdu, parse_pdu, with_content_hash_checked
from yizhan_server.protocol.identifiers import RoomID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.signing import InvalidSignature


class SignatureChecks(Protocol):
    """Knows the keys of all servers."""

    async def check_events(
        self, events: Sequence[JsonObject], version: RoomVersion
    ) -> list[InvalidSignature | None]:
        """Return, for each event, what is wrong with the signatures that it needs."""
        ...


Refusal = InvalidPdu | InvalidSignature


class Verification:
    """Verifies events."""

    def __init__(self, signatures: SignatureChecks) -> None:
        self._signatures = signatures

    async def verify(
        self, raws: Sequence[RawPdu | JsonObject], version: RoomVersion
    ) -> list[Pdu | Refusal]:
        """Return each event, redacted if its content hash is wrong, or why it is dropped."""
        results: list[Pdu | Refusal] = [_parsed(raw, version) for raw in raws]
        parsed = [(at, pdu) for at, pdu in enumerate(results) if isinstance(pdu, Pdu)]
        checked = await self._signatures.check_events([pdu.raw for _, pdu in parsed], version)
        for (at, pdu), wrong in zip(parsed, checked, strict=True):
            results[at] = with_content_hash_checked(pdu, version) if wrong is None else wrong
        return results

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
        self, raws: Sequence[RawPdu | JsonObject], version: RoomVersion, room_id: RoomID
    ) -> list[Pdu]:
        """Return those events that are right and of this room, in their order."""
        return [
            each
            for each in await self.verify(raws, version)
            if isinstance(each, Pdu) and each.room_id == room_id
        ]


def _parsed(raw: RawPdu | JsonObject, version: RoomVersion) -> Pdu | InvalidPdu:
    try:
        read = read_pdu(raw, version) if isinstance(raw, RawPdu) else raw
        return parse_pdu(read, version)
    except InvalidPdu as error:
        return error
