"""What gives way when a notification is larger than a push message."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from yizhan_bridges.notification import Counts, Notification
from yizhan_bridges.payload import Detail, build_payload
from yizhan_bridges.webpush.encryption import MAX_PLAINTEXT_BYTES
from yizhan_testing.push_gateway import EVENT, ROOM, Gateway
from yizhan_testing.push_service import Subscription

CORE = {"event_id": EVENT, "room_id": ROOM, "unread": 2}


def payload_of(defaults: dict[str, Any], limit: int = 1000, **fields: Any) -> dict[str, Any]:
    notification = Notification(
        devices=[], event_id=EVENT, room_id=ROOM, counts=Counts(unread=2), **fields
    )
    encoded = build_payload(notification, defaults, Detail.CONTENT, limit)
    assert len(encoded) <= limit
    payload: dict[str, Any] = json.loads(encoded)
    return payload


def test_what_fits_is_not_touched() -> None:
    content = {"msgtype": "m.text", "body": "hi", "org.example.extra": [1]}
    assert payload_of({"account": 1}, content=content, sender="@a:b") == {
        **CORE,
        "account": 1,
        "sender": "@a:b",
        "content": content,
    }


def test_first_the_unseen_part_of_the_content_goes() -> None:
    content = {"msgtype": "m.text", "body": "hi", "formatted_body": "x" * 1000}
    assert payload_of({}, content=content)["content"] == {"msgtype": "m.text", "body": "hi"}


def test_then_the_message_is_cut_with_a_sign_of_it() -> None:
    payload = payload_of({"account": 1}, content={"body": "请" * 1000}, room_name="采购科")
    assert payload["room_name"] == "采购科"
    body = payload["content"]["body"]
    assert body == "请" * (len(body) - 1) + "…"
    assert len(body) > 100


def test_then_names_and_last_what_the_client_asked_to_get_back() -> None:
    assert payload_of({"account": 1}, room_name="n" * 2000, sender="@a:b") == {
        **CORE,
        "account": 1,
        "sender": "@a:b",
    }
    assert payload_of({"account": "x" * 2000}, sender="@a:b") == CORE


def test_a_client_cannot_override_which_event_it_is_told_about() -> None:
    assert payload_of({"event_id": "$other", "unread": 99}) == CORE


identifiers = st.text(max_size=255) | st.text("\x00\U0001f600", min_size=255, max_size=255)


@given(
    identifiers,
    identifiers,
    st.dictionaries(st.text(), st.text(max_size=3000), max_size=3),
    st.dictionaries(st.sampled_from(["body", "msgtype", "x"]), st.text() | st.integers()),
)
def test_the_core_always_fits(
    event_id: str, room_id: str, defaults: dict[str, Any], content: dict[str, Any]
) -> None:
    counts = Counts(unread=2**53 - 1, missed_calls=2**53 - 1)
    notification = Notification(
        devices=[], event_id=event_id, room_id=room_id, counts=counts, content=content
    )
    encoded = build_payload(notification, defaults, Detail.CONTENT, MAX_PLAINTEXT_BYTES)
    assert len(encoded) <= MAX_PLAINTEXT_BYTES
    payload = json.loads(encoded)
    assert payload["room_id"] == room_id if room_id else True
    assert payload["unread"] == 2**53 - 1


async def test_an_oversized_wish_of_the_client_still_leaves_a_notification(
    gateway: Gateway, browser: Subscription
) -> None:
    device = browser.device(default_payload={"x": "y" * 5000})
    assert await gateway.notify(device) == (200, {"rejected": []})
    message = await browser.next_message()
    assert message.payload == {"event_id": EVENT, "room_id": ROOM}
    assert message.body_bytes <= 4096
