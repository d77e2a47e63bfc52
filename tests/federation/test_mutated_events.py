"""Valid events and transactions, spoilt at random: never a fault, never a change of the state."""

from __future__ import annotations

import copy
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from yizhan_server.protocol.canonical_json import NotCanonical
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.peer_in_room import PeerInRoom, joined

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

FEW, MANY = 150, 100_000
ODD: list[Any] = [
    None, True, 0, -1, 2**53, 2**63, 2**70, 1.5, "", "\0", "x", "é" * 300, "@", "!x:y", "$x",
    "@mallory:elsewhere.test", [], [[]], ["$x"], [None], {}, {"a": {}}, {"membership": "join"},
    {"users": {"@mallory:elsewhere.test": 2**60}}, {"a": [[[[[[]]]]]]}, "m.room.create",
]  # fmt: skip


def spoilt(value: Any, random: Random) -> Any:
    """Return `value` with one thing in it left out, put in, doubled or changed."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        changed = dict(value)
        how = random.random()
        if how < 0.2:
            del changed[key]
        elif how < 0.3:
            changed[random.choice(["x", "event_id", "redacts", "unsigned", "origin"])] = value[key]
        else:
            changed[key] = spoilt(value[key], random)
        return changed
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.randrange(len(value))
        if random.random() < 0.3:
            return value + value[at : at + 1] * random.choice([1, 30])
        return [*value[:at], spoilt(value[at], random), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.5:
        return value + random.choice([-1, 1, 2**31])
    return copy.deepcopy(random.choice(ODD))


def resigned(raw: Any, guest: PeerInRoom) -> Any:
    """Return an event with the right hash and signature for what it says, if it can have them."""
    try:
        return hash_and_sign_event(raw, guest.version, guest.peer.name, guest.peer.key)
    except (NotCanonical, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return raw


def valid(guest: PeerInRoom, random: Random) -> Any:
    """Return an event that would be taken, or that the room does not permit."""
    choices: list[tuple[str, dict[str, Any], str | None]] = [
        ("m.room.message", {"msgtype": "m.text", "body": "x"}, None),
        ("m.room.member", {"membership": "join", "displayname": "M"}, guest.user_id),
        ("m.room.power_levels", {"users": {guest.user_id: 100}}, ""),
        ("m.room.name", {"name": "x"}, ""),
        ("m.room.redaction", {"redacts": guest.last[0].event_id}, None),
    ]
    kind, content, key = random.choice(choices)
    return guest.event(kind, content, key).raw


async def sends_spoilt(
    guest: PeerInRoom, alice: Person, room: str, count: int, random: Random
) -> None:
    """Send spoilt events; Yizhan must answer each, and keep its state but for one's own profile."""
    before = await state_of(alice, room, guest)
    for number in range(0, count, 10):
        raws = []
        for _ in range(10):
            raw = valid(guest, random)
            for _ in range(random.choice([0, 1, 1, 2])):
                raw = spoilt(raw, random)
            raws.append(resigned(raw, guest) if random.random() < 0.7 else raw)
        try:
            answer = await guest.sends(*raws)
        except (NotCanonical, TypeError, ValueError):
            continue  # nobody can sign a request with it
        assert answer.status < 500, (number, raws, answer.content)
    assert await state_of(alice, room, guest) == before
    assert await alice.says(room, "still here")


async def state_of(alice: Person, room: str, guest: PeerInRoom) -> dict[tuple[str, str], str]:
    """Return the state but for what the guest may change."""
    events: Any = await alice.get(f"/v3/rooms/{quote(room, safe='')}/state")
    return {
        (event["type"], event["state_key"]): event["event_id"]
        for event in events
        if event["state_key"] != guest.user_id
    }


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("version", ["2", "6", "11", "12"])
async def test_spoilt_events_are_no_fault_and_change_nothing(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person, version: str
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version=version)
    guest = await joined(peer, homeserver, room)
    await sends_spoilt(guest, alice, room, FEW, Random(f"few {version}"))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("version", ["2", "6", "11", "12"])
async def test_very_many_spoilt_events_are_no_fault_and_change_nothing(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person, version: str
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version=version)
    guest = await joined(peer, homeserver, room)
    # On two databases and in four versions, 100,000 together.
    await sends_spoilt(guest, alice, room, MANY // 8, Random(f"many {version}"))
