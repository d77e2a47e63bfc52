"""What other servers answer, parsed: types are checked, and what is missing is an error.

Events stay bytes (`RawPdu`) until somebody knows their room version, which says how their numbers
are read; and what is JSON but no event spoils itself only, not the list that it came in.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec

from yizhan_server.federation_client.errors import RemoteMisbehaved
from yizhan_server.protocol.canonical_json import (
    JsonObject,
    NotCanonical,
    parse_exactly,
    parse_json,
)
from yizhan_server.protocol.errors import NotJson
from yizhan_server.protocol.event import InvalidPdu
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.room_version import RoomVersion

RawPdu = msgspec.Raw
"""The JSON of one event, as it came; it shares the memory of the whole answer."""

OFF_LOOP_BYTES = 512 * 1024
"""Larger answers are parsed in a thread: a megabyte takes some milliseconds."""

_BYTES_PER_COMMA = 16
"""State events have some forty; a list of tiny values would take many times its size in memory."""

T = TypeVar("T")


def parse_answer(server: ServerName, body: bytes, kind: type[T]) -> T:
    """Return `body` as a `kind` (a msgspec.Struct). Raises RemoteMisbehaved."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RemoteMisbehaved(server, f"not the answer that was asked for: {error}") from None


async def parse_large_answer(server: ServerName, body: bytes, kind: type[T]) -> T:
    """Do the same in a thread if `body` is large. Raises RemoteMisbehaved."""
    if len(body) < OFF_LOOP_BYTES:
        return parse_answer(server, body, kind)
    if body.count(b",") * _BYTES_PER_COMMA > len(body):
        raise RemoteMisbehaved(server, "not a list of events")
    return await asyncio.to_thread(parse_answer, server, body, kind)


def parse_object(server: ServerName, body: bytes | msgspec.Raw) -> JsonObject:
    """Return a free-form answer, or part of one, as canonical JSON has it.

    Raises RemoteMisbehaved.
    """
    try:
        value: Any = parse_json(bytes(body), strict=True)
    except (NotJson, NotCanonical):
        raise RemoteMisbehaved(server, "not canonical JSON") from None
    if not isinstance(value, dict):
        raise RemoteMisbehaved(server, "not a JSON object")
    return value


def parse_typed(server: ServerName, body: bytes, kind: type[T]) -> T:
    """Return `body`, all of which has to be canonical JSON, as a `kind` without raw parts.

    Raises RemoteMisbehaved.
    """
    try:
        return msgspec.convert(parse_object(server, body), kind)
    except msgspec.MsgspecError as error:
        raise RemoteMisbehaved(server, f"not the answer that was asked for: {error}") from None


def read_pdu(raw: RawPdu, version: RoomVersion) -> JsonObject:
    """Return the event's JSON as its room version reads it, for `parse_pdu`. Raises InvalidPdu."""
    read = parse_json if version.strict_canonical_json else parse_exactly
    try:
        value: Any = read(bytes(raw))
    except NotJson:
        raise InvalidPdu("an event is JSON") from None
    if not isinstance(value, dict):
        raise InvalidPdu("an event is a JSON object")
    return value
