"""Events that are sent later, unless their sender asks for something else before."""

from __future__ import annotations

from urllib.parse import quote

from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person

PATH = "/unstable/org.matrix.msc4140/delayed_events"
HOUR = 3_600_000


async def delays(person: Person, room: str, text: str, delay_ms: int) -> str:
    answer = await person.put(
        f"/v3/rooms/{quote(room)}/send/m.room.message/{text}?org.matrix.msc4140.delay={delay_ms}",
        {"msgtype": "m.text", "body": text},
    )
    delay_id: str = answer["delay_id"]
    return delay_id


async def delays_state(person: Person, room: str, content: JsonObject, delay_ms: int) -> str:
    answer = await person.put(
        f"/v3/rooms/{quote(room)}/state/m.call.member/x?org.matrix.msc4140.delay={delay_ms}",
        content,
    )
    delay_id: str = answer["delay_id"]
    return delay_id


async def waiting(person: Person) -> list[JsonObject]:
    found: list[JsonObject] = (await person.get(PATH))["delayed_events"]
    return found


async def wait_for(person: Person, number: int) -> None:
    """Return once so many events wait."""
    while len(await waiting(person)) != number:
        pass


async def test_an_event_is_sent_when_it_is_due(alice: Person) -> None:
    room = await alice.creates_room()
    await alice.syncs()
    await delays(alice, room, "later", 30)
    await alice.says(room, "now")
    texts: list[str] = []
    while len(texts) < 2:
        texts += (await alice.syncs(timeout_ms=20_000)).texts(room)
    assert sorted(texts) == ["later", "now"]
    # The row goes just after the event is visible.
    await wait_for(alice, 0)


async def test_a_delay_is_restarted_sent_or_cancelled(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room()
    await alice.syncs()
    ids = [await delays(alice, room, name, HOUR) for name in ("restart", "send", "cancel")]
    before = await waiting(alice)
    assert [each["delay_id"] for each in before] == ids
    assert (before[0]["delay_ms"], before[0]["type"]) == (HOUR, "m.room.message")
    assert before[0]["content"]["body"] == "restart"
    assert await waiting(bob) == []
    assert (await bob.refused("GET", f"{PATH}/{ids[0]}")).errcode == "M_NOT_FOUND"
    assert (await alice.get(f"{PATH}/{ids[1]}"))["delay_id"] == ids[1]

    # The id is enough: the media server of a call has no access token.
    url = f"{homeserver.base_url}/_matrix/client{PATH}/{ids[0]}/restart"
    async with homeserver.http.post(url, json={}) as response:
        assert (response.status, await response.json()) == (200, {})
    await alice.post(f"{PATH}/{ids[1]}", {"action": "send"})
    await alice.post(f"{PATH}/{ids[2]}", {"action": "cancel"})

    assert (await alice.syncs()).texts(room) == ["send"]
    left = await waiting(alice)
    assert [each["delay_id"] for each in left] == [ids[0]]
    assert left[0]["delayed_since_ts"] >= before[0]["delayed_since_ts"]
    for gone in (ids[1], ids[2], "none"):
        for action in ("restart", "send", "cancel"):
            refused = await alice.refused("POST", f"{PATH}/{gone}", {"action": action})
            assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    refused = await alice.refused("POST", f"{PATH}/{ids[0]}", {"action": "x"})
    assert refused.errcode == "M_INVALID_PARAM"


async def test_a_state_event_ends_when_another_user_sets_it(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(
        preset="public_chat", power_level_content_override={"state_default": 0}
    )
    await bob.joins(room)
    mine = await delays_state(alice, room, {"left": True}, HOUR)
    await alice.sets(room, "m.call.member", {"joined": True}, "x")
    assert [each["state_key"] for each in await waiting(alice)] == ["x"]
    await bob.sets(room, "m.call.member", {"taken": True}, "x")
    assert await waiting(alice) == []
    assert (await alice.refused("POST", f"{PATH}/{mine}", {"action": "send"})).status == 404

    again = await delays_state(alice, room, {"left": True}, HOUR)
    await alice.post(f"{PATH}/{again}", {"action": "send"})
    state = await bob.get(f"/v3/rooms/{quote(room)}/state/m.call.member/x")
    assert state == {"left": True}


async def test_delays_are_bounded_and_need_membership(alice: Person, bob: Person) -> None:
    room = await alice.creates_room()
    path = f"/v3/rooms/{quote(room)}/send/m.room.message/t?org.matrix.msc4140.delay="
    refused = await alice.refused("PUT", f"{path}{25 * HOUR}", {})
    assert (refused.status, refused.body["org.matrix.msc4140.max_delay"]) == (400, 24 * HOUR)
    assert (await alice.refused("PUT", f"{path}x", {})).errcode == "M_INVALID_PARAM"
    assert (await bob.refused("PUT", f"{path}1", {})).errcode == "M_FORBIDDEN"
    for number in range(100):
        await delays(alice, room, str(number), HOUR)
    refused = await alice.refused("PUT", f"{path}1000", {})
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")


async def test_what_can_no_longer_be_sent_is_dropped(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await delays(bob, room, "never", 20)
    delay_id = await delays(bob, room, "refused", HOUR)
    await alice.post(f"/v3/rooms/{quote(room)}/kick", {"user_id": bob.user_id})
    refused = await bob.refused("POST", f"{PATH}/{delay_id}", {"action": "send"})
    assert refused.errcode == "M_FORBIDDEN"
    await wait_for(bob, 1)
    assert (await alice.syncs()).texts(room) in ([], ["never"])


async def test_nothing_is_redacted_at_once_that_was_to_be_redacted_later(alice: Person) -> None:
    room = await alice.creates_room()
    event = await alice.says(room, "precious")
    path = f"/v3/rooms/{quote(room)}/send/m.room.redaction/t?org.matrix.msc4140.delay={HOUR}"
    refused = await alice.refused("PUT", path, {"redacts": event})
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    seen = await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(event)}")
    assert seen["content"]["body"] == "precious"


async def test_nobody_leaves_at_once_who_was_to_leave_later(alice: Person) -> None:
    room = await alice.creates_room()
    member = f"/v3/rooms/{quote(room)}/state/m.room.member/{quote(alice.user_id)}"
    path = f"{member}?org.matrix.msc4140.delay={HOUR}"
    refused = await alice.refused("PUT", path, {"membership": "leave"})
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    assert (await alice.get(member))["membership"] == "join"
