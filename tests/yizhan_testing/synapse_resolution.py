"""Synapse's state resolution as a program, run by the interpreter that has Synapse.

Reads histories from standard input, one a line (`test_same_as_synapse.py` writes them), and writes
the state that Synapse resolves each to. Which events the auth chains do not share is told to it:
finding them is the business of its database.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine
from importlib import import_module
from typing import Any

# Not imported in the usual way: Synapse is no dependency of ours, and is not where tests run. Its
# modules import one another in a circle, which only a beginning with `server` survives.
import_module("synapse.server")
room_versions = import_module("synapse.api.room_versions")
events = import_module("synapse.events")
v1, v2 = (import_module(f"synapse.state.{name}") for name in ("v1", "v2"))
graph = import_module("synapse.storage.databases.main.event_federation")


class Store:
    """What Synapse's algorithms ask of its database, and of its clock."""

    def __init__(self, history: dict[str, Any]) -> None:
        self._history = history
        version = room_versions.KNOWN_ROOM_VERSIONS[history["version"]]
        self._events = {
            event_id: events.make_event_from_dict(raw, version)
            for event_id, raw in history["events"].items()
        }

    async def get_events(
        self,
        event_ids: list[str],
        allow_rejected: bool = False,
    ) -> dict[str, Any]:
        return {one: self._events[one] for one in event_ids if one in self._events}

    async def get_auth_chain_difference(self, *_: object) -> Any:
        return graph.StateDifference(
            auth_difference=set(self._history["auth_difference"]),
            conflicted_subgraph=set(self._history["conflicted_subgraph"]),
        )

    async def sleep(self, _: object) -> None:
        pass


def resolve(history: dict[str, Any]) -> Any:
    version = room_versions.KNOWN_ROOM_VERSIONS[history["version"]]
    states = [{(kind, key): one for kind, key, one in state} for state in history["states"]]
    store = Store(history)
    room_id = history["room_id"]
    if version.state_res == room_versions.StateResolutionVersions.V1:
        return finished(
            v1.resolve_events_with_store(room_id, version, states, None, store.get_events)
        )
    return finished(v2.resolve_events_with_store(store, room_id, version, states, None, store))


def finished(steps: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits."""
    try:
        steps.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


if __name__ == "__main__":
    for line in sys.stdin:
        resolved = resolve(json.loads(line))
        print(json.dumps(sorted([*key, one] for key, one in resolved.items())))  # noqa: T201
