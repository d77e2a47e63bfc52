"""Patterns that people choose, matched against texts that others choose, take no time."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

from yizhan_testing.attacks import Town


async def test_a_filter_of_many_stars_is_matched_in_no_time(town: Town) -> None:
    kind = "a" * 250
    path = f"/_matrix/client/v3/rooms/{quote(town.room, safe='')}/send/{kind}/"
    for number in range(3):
        assert (await town.attacks("PUT", f"{path}{number}", b"{}")).status == 200
    types = ["*a" * 60 + "*b", "*" * 200 + "b", "a*" * 100 + "!"]
    begun = time.perf_counter()
    for wanted in ({"types": types}, {"not_types": types}):
        text = quote(json.dumps({"room": {"timeline": wanted}}), safe="")
        answer = await town.attacks("GET", f"/_matrix/client/v3/sync?filter={text}")
        assert answer.status == 200
        text = quote(json.dumps(wanted), safe="")
        page = await town.attacks(
            "GET",
            f"/_matrix/client/v3/rooms/{quote(town.room, safe='')}/messages?dir=b&filter={text}",
        )
        assert bool(page.body["chunk"]) == ("not_types" in wanted)
    assert time.perf_counter() - begun < 5


async def test_a_star_stands_for_any_characters_at_its_place(town: Town) -> None:
    alice, room = town.alice, town.room
    kinds = ["m.a", "m.ab", "m.b", "xm.a", "m.\n", "m.a.a"]
    for kind in kinds:
        await alice.sends(room, kind, {})
    for pattern, matching in (
        ("m.*", ["m.a", "m.ab", "m.b", "m.\n", "m.a.a"]), ("*a", ["m.a", "xm.a", "m.a.a"]),
        ("*m.*a*", ["m.a", "m.ab", "xm.a", "m.a.a"]), ("m.a*a", ["m.a.a"]), ("**", kinds),
        ("m.a", ["m.a"]), ("", []), ("m.?", []), ("m.a*.a*a", []),
    ):  # fmt: skip
        page = await alice.get(
            f"/v3/rooms/{quote(room)}/messages", dir="b", limit="50",
            filter=json.dumps({"types": [pattern], "not_types": ["m.room.*"]}),
        )  # fmt: skip
        found = [event["type"] for event in reversed(page["chunk"])]
        assert found == matching, pattern


async def test_push_rules_of_many_stars_are_matched_in_no_time(town: Town) -> None:
    for number, pattern in enumerate(("*a" * 60 + "*b", "a*" * 100 + "!", "?*" * 80 + "b")):
        await town.bob.put(
            f"/v3/pushrules/global/content/stars{number}", {"actions": [], "pattern": pattern}
        )
        condition = {"kind": "event_match", "key": "content.body", "pattern": pattern}
        await town.bob.put(
            f"/v3/pushrules/global/override/stars{number}",
            {"actions": [], "conditions": [condition]},
        )
    begun = time.perf_counter()
    for text in ("a" * 30_000, "a " * 15_000):
        await town.alice.says(town.room, text)
    assert time.perf_counter() - begun < 5
