"""Random histories of a forked room: who does what, where, by which clock, and by mistake."""

from __future__ import annotations

import random
from dataclasses import dataclass

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_testing.forked_room import ForkedRoom
from yizhan_testing.protocol_room import ALICE, BOB, CAROL
from yizhan_testing.whole_set_resolution import State

PEOPLE = (ALICE, BOB, CAROL, UserID("@dave:d.test"))
KINDS = ("join", "leave", "ban", "invite", "levels", "levels", "rule", "topic", "topic")
LEVELS = (0, 50, 100)
DELAYS_MS = (0, 0, -5000, 5000, 100_000)


@dataclass(frozen=True)
class Act:
    """One random step: who does what to whom, after which of the latest events."""

    kind: str
    sender: UserID
    target: UserID
    level: int
    after: frozenset[int]
    delay_ms: int
    mistake: int


def random_act(chance: random.Random) -> Act:
    """Return a step without hypothesis, where an example costs too much for it."""
    return Act(
        chance.choice(KINDS),
        chance.choice(PEOPLE),
        chance.choice(PEOPLE),
        chance.choice(LEVELS),
        frozenset(chance.sample(range(4), chance.randrange(1, 4))),
        chance.choice(DELAYS_MS),
        chance.choice([0, 0, chance.randrange(50)]),
    )


def founded(version: RoomVersion) -> ForkedRoom:
    """A room with three members, one of them a moderator."""
    room = ForkedRoom(version)
    at = room.nodes
    room.event([at[-1]], "m.room.member", ALICE, {"membership": "join"}, ALICE)
    room.event([at[-1]], "m.room.power_levels", ALICE, levels(version, {BOB: 50}))
    room.event([at[-1]], "m.room.join_rules", ALICE, {"join_rule": "public"})
    for one in (BOB, CAROL):
        room.event([at[-1]], "m.room.member", one, {"membership": "join"}, one)
    return room


def levels(version: RoomVersion, users: dict[UserID, int]) -> JsonObject:
    own = {} if version.privileged_creators else {ALICE: 100}
    return {"users": {**own, **users}, "events": {"m.room.topic": 0}}


def perform(room: ForkedRoom, act: Act) -> None:
    after = [room.nodes[-1 - number] for number in act.after if number < len(room.nodes)]
    content: JsonObject = {"membership": act.kind}
    kind, state_key = "m.room.member", str(act.target)
    match act.kind:
        case "join":
            state_key = act.sender
        case "levels":
            kind, state_key = "m.room.power_levels", ""
            content = levels(room.version, {BOB: 50, act.target: act.level})
            content["events"] = {"m.room.topic": act.level}
        case "rule":
            kind, state_key = "m.room.join_rules", ""
            content = {"join_rule": "invite" if act.level else "public"}
        case "topic":
            kind, state_key, content = "m.room.topic", "", {"topic": str(act.level)}
        case _:
            pass  # a change of membership
    state = room.resolve(after)
    if act.mistake:
        state = mistaken(room, state, random.Random(act.mistake))
    room.try_event(
        after, kind, act.sender, content, state_key, state_before=state, delay_ms=act.delay_ms
    )


def mistaken(room: ForkedRoom, state: State, chance: random.Random) -> State:
    """What a server believes that was told an older event of some key, or of none."""
    key = chance.choice(sorted(state.keys() - {("m.room.create", "")}))
    others = sorted(one.event_id for one in room.events.values() if one.is_state and one.key == key)
    other = chance.choice([None, *others])
    changed = {**state}
    del changed[key]
    return changed if other is None else changed | {key: other}
