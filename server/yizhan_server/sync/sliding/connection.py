"""What a connection has been sent: the state that a `pos` names. Pure.

A room is *live* as long as each answer covers it: then the client has everything up to the
token. One that no list or subscription names any more keeps the position up to which the client
has it, and goes on from there when it is named again.

Spec: MSC4186, "Connections", "Changing room configs".
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from yizhan_server.sync.sliding.required_state import Rule, Rules, shared

LIVE = 0

ACCOUNT_DATA = 1
RECEIPTS = 2
DIRECT = 4


@dataclass(frozen=True, slots=True)
class SentRoom:
    """What the client has of one room."""

    limit: int
    """It has the last so many events at least."""
    rules: Rules
    """It is up to date with the state that these name."""
    flags: int
    """ACCOUNT_DATA, RECEIPTS: up to date with these as well. DIRECT: it was told that it is."""
    upto: int = LIVE
    """It has everything up to this position; LIVE: up to the token's."""


ConnectionState = dict[int, SentRoom]
"""By room number. Not to be changed once it is given to somebody."""

_PackedRule = tuple[str, str, list[tuple[str, str]]]
_PackedRoom = tuple[int, int, int, int, int]
_Packed = tuple[list[list[_PackedRule]], list[_PackedRoom]]

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Packed)


def pack_state(state: ConnectionState) -> bytes:
    """Return the stored form: each set of rules once, then a row for each room."""
    sets = {rules: index for index, rules in enumerate({room.rules for room in state.values()})}
    packed: _Packed = (
        [
            [(rule.type, rule.state_key, sorted(rule.excluded)) for rule in rules]
            for rules in sets
        ],
        [
            (nid, room.limit, sets[room.rules], room.flags, room.upto)
            for nid, room in state.items()
        ],
    )  # fmt: skip
    return _encode(packed)


def unpack_state(stored: bytes) -> ConnectionState:
    """The opposite of `pack_state`."""
    packed_sets, rooms = _decoder.decode(stored)
    sets = [
        shared(frozenset(Rule(kind, key, frozenset(excluded)) for kind, key, excluded in rules))
        for rules in packed_sets
    ]
    return {
        nid: SentRoom(limit, sets[index], flags, upto) for nid, limit, index, flags, upto in rooms
    }
