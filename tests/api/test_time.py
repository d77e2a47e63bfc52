"""Events by the time at which they were sent."""

from __future__ import annotations

from urllib.parse import quote

from yizhan_testing.homeserver import Person


async def test_the_event_closest_to_a_time_is_found_on_either_side(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ]
    )
    path = f"/v1/rooms/{quote(room)}/timestamp_to_event"
    first = await alice.says(room, "一")
    start = (await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(first)}"))["origin_server_ts"]
    # Two events within a millisecond have the same time, and either is the closest.
    while True:
        second = await alice.says(room, "二")
        end = (await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(second)}"))[
            "origin_server_ts"
        ]
        if end > start + 1:
            break

    found = await alice.get(path, ts=str(end - 1), dir="f")
    assert found == {"event_id": second, "origin_server_ts": end}
    assert (await alice.get(path, ts=str(end), dir="b"))["event_id"] == second
    before = await alice.get(path, ts=str(end - 1), dir="b")
    assert start <= before["origin_server_ts"] < end
    oldest = await alice.get(path, ts="0", dir="f")
    create = await alice.get(f"/v3/rooms/{quote(room)}/state/m.room.create/?format=event")
    assert oldest["origin_server_ts"] == create["origin_server_ts"]

    for ts, direction in ((end + 1, "f"), (1, "b")):
        refused = await alice.refused("GET", f"{path}?ts={ts}&dir={direction}")
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    for query in ("dir=f", "ts=1", "ts=1&dir=x", "ts=x&dir=f"):
        assert (await alice.refused("GET", f"{path}?{query}")).status == 400
    assert (await bob.refused("GET", f"{path}?ts=0&dir=f")).errcode == "M_FORBIDDEN"

    # A newcomer finds only what newcomers see.
    await alice.invites(room, bob)
    await bob.joins(room)
    found = await bob.get(path, ts=str(start), dir="f")
    assert found["event_id"] not in (first, second)
    assert found["origin_server_ts"] >= end
