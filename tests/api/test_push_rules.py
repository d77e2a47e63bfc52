"""Push rules at the API: lists, single rules, and paths that name neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from yizhan_testing.homeserver import Person

RULES = "/v3/pushrules"


async def test_rules_are_listed_by_scope_and_kind(alice: Person) -> None:
    await alice.put(f"{RULES}/global/room/!a:b", {"actions": ["dont_notify"]})
    everything = await alice.get(f"{RULES}/")
    assert await alice.get(f"{RULES}/global/") == everything["global"]
    rules: Any = await alice.call("GET", f"{RULES}/global/room/")
    (rule,) = rules
    assert rule == everything["global"]["room"][0] == await alice.get(f"{RULES}/global/room/!a:b")
    # It does nothing, but who set it finds it again.
    assert rule["actions"] == ["dont_notify"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "", 404),
        ("GET", "/global", 400),
        ("GET", "/global/room", 400),
        ("GET", "/device/", 400),
        ("GET", "/global/strange/", 400),
        ("GET", "/global/override/.m.rule.master/colour", 400),
        ("GET", "/global/override/nowhere", 404),
        ("PUT", "/", 400),
        ("PUT", "/global", 400),
        ("PUT", "/global/room", 400),
        ("PUT", "/global/room/", 400),
        ("PUT", "/device/room/!a:b", 400),
        ("PUT", "/global/override/.m.rule.master/colour", 400),
    ],
)
async def test_a_path_that_names_no_rule_is_refused(
    alice: Person, method: str, path: str, status: int
) -> None:
    body: dict[str, Any] | None = {"actions": []} if method == "PUT" else None
    assert (await alice.refused(method, RULES + path, body)).status == status


async def test_a_rule_that_could_not_be_shown_in_a_sync_is_refused(alice: Person) -> None:
    deep: Any = 1
    for _ in range(245):
        deep = {"a": deep}
    tweak = {"set_tweak": "x", "value": deep}
    refused = await alice.refused("PUT", f"{RULES}/global/room/!a:b", {"actions": [tweak]})
    assert refused.errcode == "M_BAD_JSON"
    await alice.syncs()
