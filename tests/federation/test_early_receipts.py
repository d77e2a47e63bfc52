"""Receipts that come before the event that was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_server.federation import early_receipts
from yizhan_testing.neighbours import sees
from yizhan_testing.peer_in_room import PeerInRoom, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from yizhan_testing.homeserver import HomeserverInProcess, Person, SyncAnswer
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]


def receipt(guest: PeerInRoom, event_id: str, **data: Any) -> JsonObject:
    """Return the EDU that says how far a guest has read."""
    of_user = {"event_ids": [event_id], "data": {"ts": 1, **data}}
    content = {guest.room_id: {"m.read": {guest.user_id: of_user}}}
    return {"edu_type": "m.receipt", "content": content}


def receipts(answer: SyncAnswer, room: str) -> dict[str, dict[str, Any]]:
    """Return who has read, by event."""
    return {
        event_id: kinds["m.read"]
        for event in answer.room(room).get("ephemeral", {}).get("events", [])
        if event["type"] == "m.receipt"
        for event_id, kinds in event["content"].items()
    }


def read_at(room: str, event_id: str) -> Callable[[SyncAnswer], bool]:
    return lambda answer: event_id in receipts(answer, room)


async def test_a_receipt_counts_when_its_event_comes(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await joined(peer, homeserver, room)
    await alice.syncs()
    late = guest.event("m.room.message", {"body": "read before it was here"})
    in_thread = guest.event(
        "m.room.message",
        {"body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": late.event_id}},
        follows=[late.event_id], depth=late.depth + 1,
    )  # fmt: skip
    early = receipt(guest, late.event_id)
    of_thread = receipt(guest, in_thread.event_id, thread_id=late.event_id)
    wrong = receipt(guest, in_thread.event_id, thread_id="$another")
    assert (await guest.sends(edus=(early, of_thread, wrong))).status == 200
    assert receipts(await alice.syncs(), room) == {}
    await guest.sends(late)
    await sees(alice, read_at(room, late.event_id))
    await guest.sends(in_thread)
    await sees(alice, read_at(room, in_thread.event_id))
    everything = receipts(await alice.syncs(full_state="true", since=""), room)
    thread = everything[in_thread.event_id][guest.user_id].get("thread_id")
    assert thread == late.event_id


async def test_who_has_read_on_since_stays_there(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await joined(peer, homeserver, room)
    other = await joined(peer, homeserver, room, "other")
    said = await alice.says(room, "here already")
    late = guest.event("m.room.message", {"body": "read first, here last"})
    leave = other.event("m.room.member", {"membership": "leave"}, other.user_id)
    await guest.sends(edus=(receipt(guest, late.event_id), receipt(other, late.event_id)))
    await guest.sends(leave, edus=(receipt(guest, said),))
    await guest.sends(late)
    # What comes after it has looked at it as well.
    last = guest.event("m.room.message", {"body": "last"})
    await guest.sends(edus=(receipt(guest, last.event_id),))
    seen: list[str] = []

    def is_last(answer: SyncAnswer) -> bool:
        seen.extend(receipts(answer, room))
        return last.event_id in seen

    await alice.syncs()
    await guest.sends(last)
    await sees(alice, is_last)
    assert late.event_id not in receipts(await alice.syncs(since="", full_state="true"), room)
    assert seen == [last.event_id]


async def test_a_server_has_no_more_than_some_receipts_wait(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_receipts, "MAX_OF_SERVER", 2)
    rooms = [await alice.creates_room(preset="public_chat") for _ in range(3)]
    guests = [await joined(peer, homeserver, room) for room in rooms]
    late = [guest.event("m.room.message", {"body": "late"}) for guest in guests]
    for guest, event in zip(guests, late, strict=True):
        await guest.sends(edus=(receipt(guest, event.event_id),))
        # That nobody will ever have one is no reason to keep more of it.
        await guest.sends(edus=(receipt(guest, "$nothing" + "x" * 300),))
    await guests[0].sends(*late)
    seen: set[str] = set()

    def are_there(answer: SyncAnswer) -> bool:
        seen.update(event_id for room in rooms for event_id in receipts(answer, room))
        return seen >= {event.event_id for event in late[1:]}

    await sees(alice, are_there)
    assert receipts(await alice.syncs(since="", full_state="true"), rooms[0]) == {}
