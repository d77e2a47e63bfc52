"""Registration tokens, made and taken away from afar."""

from __future__ import annotations

from typing import Any

from yizhan_testing.homeserver import Person

TOKENS = "/_synapse/admin/v1/registration_tokens"


async def test_tokens_are_made_listed_changed_and_removed(admin: Person) -> None:
    named = await admin.post(f"{TOKENS}/new", {"token": "spring", "uses_allowed": 2})
    assert named == {
        "token": "spring", "uses_allowed": 2, "pending": 0, "completed": 0, "expiry_time": None
    }  # fmt: skip
    made = await admin.post(f"{TOKENS}/new", {"length": 20, "expiry_time": 2**45})
    assert len(made["token"]) == 20
    assert await admin.get(f"{TOKENS}/spring") == named
    changed = await admin.put(f"{TOKENS}/spring", {"uses_allowed": 0})
    assert (changed["uses_allowed"], changed["expiry_time"]) == (0, None)
    for valid, names in (("true", {made["token"]}), ("false", {"spring"})):
        listed = await admin.get(TOKENS, valid=valid)
        assert {token["token"] for token in listed["registration_tokens"]} == names
    everlasting = await admin.put(f"{TOKENS}/{made['token']}", {"expiry_time": None})
    assert everlasting["expiry_time"] is None
    await admin.delete(f"{TOKENS}/spring")
    assert (await admin.refused("GET", f"{TOKENS}/spring")).errcode == "M_NOT_FOUND"
    assert (await admin.refused("DELETE", f"{TOKENS}/spring")).errcode == "M_NOT_FOUND"
    assert (await admin.refused("PUT", f"{TOKENS}/spring", {})).errcode == "M_NOT_FOUND"
    acts = (await admin.get("/_yizhan/admin/v1/record"))["record"]
    assert [act["action"] for act in acts if act["actor"] == admin.user_id] == [
        "delete_token", "change_token", "change_token", "token", "token"
    ]  # fmt: skip
    # What is a secret is not on the record.
    assert made["token"] not in str(acts)
    assert "spring" not in str(acts)


async def test_tokens_that_cannot_be_are_refused(admin: Person) -> None:
    await admin.post(f"{TOKENS}/new", {"token": "taken"})
    wishes: list[Any] = [
        {"token": "taken"}, {"token": ""}, {"token": "x" * 65}, {"token": "一"}, {"length": 0},
        {"length": 65}, {"uses_allowed": -1}, {"expiry_time": 1}, {"uses_allowed": 2**63},
        {"expiry_time": 2**70},
    ]  # fmt: skip
    for wish in wishes:
        refused = await admin.refused("POST", f"{TOKENS}/new", wish)
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM"), wish
    for wish in ({"uses_allowed": -1}, {"expiry_time": 1}, {"uses_allowed": 2**70}):
        refused = await admin.refused("PUT", f"{TOKENS}/taken", wish)
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM"), wish
