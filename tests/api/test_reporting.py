"""Reports reach the administrators, and only them."""

from __future__ import annotations

from urllib.parse import quote

from yizhan_testing.homeserver import HomeserverInProcess, Person


async def test_reports_reach_the_administrators(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    event = await alice.says(room, "脏话")
    path = f"/v3/rooms/{quote(room)}/report"

    await bob.post(f"{path}/{quote(event)}", {"reason": "骂人", "score": -100})
    await bob.post(f"{path}/{quote(event)}", {})
    await bob.post(path, {"reason": ""})
    await bob.post(f"/v3/users/{quote(alice.user_id)}/report", {"reason": "骚扰"})
    await bob.post("/v3/users/%40x%3Aelsewhere.example/report", {"reason": "spam"})

    admin = await homeserver.person("admin", admin=True)
    reports = (await admin.get("/_synapse/admin/v1/event_reports"))["event_reports"]
    assert [
        (r["kind"], r["room_id"], r["event_id"], r["sender"], r["reason"]) for r in reports
    ] == [
        ("user", None, None, "@x:elsewhere.example", "spam"),
        ("user", None, None, alice.user_id, "骚扰"),
        ("room", room, None, None, ""),
        ("event", room, event, alice.user_id, ""),
        ("event", room, event, alice.user_id, "骂人"),
    ]
    assert {report["user_id"] for report in reports} == {bob.user_id}
    page = await admin.get("/_synapse/admin/v1/event_reports", limit="3")
    rest = await admin.get("/_synapse/admin/v1/event_reports", **{"from": str(page["next_token"])})
    assert page["event_reports"] + rest["event_reports"] == reports
    refused = await bob.refused("GET", "/_synapse/admin/v1/event_reports")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


async def test_only_what_one_sees_can_be_reported(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(
        preset="public_chat",
        initial_state=[
            {
                "type": "m.room.history_visibility",
                "content": {"history_visibility": "world_readable"},
            }
        ],
    )
    event = await alice.says(room, "公开")
    path = f"/v3/rooms/{quote(room)}/report"

    for where in (f"{path}/{quote(event)}", f"{path}/$none", "/v3/rooms/!no:test.example/report"):
        refused = await bob.refused("POST", where, {"reason": "x"})
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND"), where
    refused = await bob.refused("POST", "/v3/users/%40none%3Atest.example/report", {"reason": "x"})
    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    assert (await bob.refused("POST", path, {})).errcode == "M_BAD_JSON"
    assert (await bob.refused("POST", path, {"reason": "x" * 5001})).errcode == "M_INVALID_PARAM"
