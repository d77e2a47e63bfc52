"""The server that most rooms are on resolves random forks as we do, in every algorithm."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from yizhan_testing import synapse
from yizhan_testing import whole_set_resolution as oracle
from yizhan_testing.forked_room import resolved_by_differences
from yizhan_testing.protocol_room import versions
from yizhan_testing.random_history import founded, perform, random_act

HISTORIES = 100


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_forks_resolve_as_on_synapse() -> None:
    questions, ours = [], []
    for number in (1, 2, 6, 11, 12):
        for seed in range(HISTORIES):
            question, answer = history(number, random.Random(f"{number} {seed}"))
            questions.append(json.dumps(question))
            ours.append(answer)

    answers = subprocess.run(
        # Isolated: beside the program lies a module that is called synapse as well.
        [synapse.find_synapse(), "-I", Path(synapse.__file__).with_name("synapse_resolution.py")],
        input="\n".join(questions), capture_output=True, text=True, check=True,
    )  # fmt: skip

    theirs = [json.loads(line) for line in answers.stdout.splitlines()]
    assert len(theirs) == len(ours)
    assert [
        n for n, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other
    ] == []


def history(number: int, chance: random.Random) -> tuple[dict[str, Any], list[list[str]]]:
    """Return a random fork in the words of `synapse_resolution`, and what we resolve it to."""
    (version,) = versions(number, number)
    room = founded(version)
    for _ in range(chance.randrange(6, 22)):
        perform(room, random_act(chance))
    nodes = chance.sample(room.nodes, chance.randrange(2, 5))
    states = [node.state_after for node in nodes]
    resolved, _ = resolved_by_differences(states, room.events, version)
    question = {
        "version": version.identifier,
        "room_id": room.nodes[0].event.room_id,
        "events": {event_id: event.raw for event_id, event in room.events.items()},
        "states": [[[*key, one] for key, one in state.items()] for state in states],
        "auth_difference": sorted(oracle.auth_difference(states, room.events)),
        "conflicted_subgraph": sorted(oracle.conflicted_state_subgraph(states, room.events)),
    }
    return question, sorted([*key, one] for key, one in resolved.items())
