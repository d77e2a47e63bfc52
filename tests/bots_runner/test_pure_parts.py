"""The parts of the runner that need neither homeserver nor database."""

from __future__ import annotations

from typing import Any

import pytest

from yizhan_bots.conversation import Outgoing, PollAnswer, PollOption, Text
from yizhan_bots.matrix.content import (
    digest,
    find_answered,
    message_content,
    poll_content,
    read_content,
)
from yizhan_bots.matrix.rate import Rates
from yizhan_bots.matrix.sync import Admission

JsonObject = dict[str, Any]
MESSAGE = "m.room.message"


def text(body: str, **more: object) -> JsonObject:
    return {"msgtype": "m.text", "body": body} | more


def test_a_text_is_read_with_its_mentions_and_without_the_quoted_fallback() -> None:
    reply = {"m.in_reply_to": {"event_id": "$card"}}
    content = text("> <@bot> card\n> two\n\n1 7K2M", **{"m.mentions": {"user_ids": ["@b:x", 3]}})

    assert read_content(MESSAGE, content, reply) == Text("1 7K2M", ("@b:x",), "$card")
    assert read_content(MESSAGE, text("> said\n\nno reply"), None) == Text("> said\n\nno reply")


@pytest.mark.parametrize(
    ("content", "relation"),
    [
        (text("* x", **{"m.new_content": text("x")}), None),
        (text("* x"), {"rel_type": "m.replace", "event_id": "$e"}),
        (text("* x", **{"m.relates_to": {"rel_type": "m.replace"}}), {}),
        ({"msgtype": "m.notice", "body": "x"}, None),
        ({"msgtype": "m.text"}, None),
        ({"msgtype": "m.text", "body": 1}, "junk"),
    ],
)
def test_edits_notices_and_malformed_texts_are_not_commands(
    content: JsonObject, relation: object
) -> None:
    assert read_content(MESSAGE, content, relation) is None


@pytest.mark.parametrize(
    ("kind", "content", "answer"),
    [
        ("m.poll.response", {"m.selections": ["a", "b"]}, PollAnswer("a")),
        (
            "org.matrix.msc3381.poll.response",
            {"org.matrix.msc3381.poll.response": {"answers": ["a"]}},
            PollAnswer("a"),
        ),
        ("m.poll.response", {"m.selections": []}, None),
        ("m.poll.response", {"m.selections": [1]}, None),
        ("m.poll.response", {"org.matrix.msc3381.poll.response": []}, None),
    ],
)
def test_poll_answers_are_read_in_both_forms(
    kind: str, content: JsonObject, answer: PollAnswer | None
) -> None:
    assert read_content(kind, content, {}) == answer


@pytest.mark.parametrize(
    ("relation", "answered"),
    [
        ({"m.in_reply_to": {"event_id": "$card"}}, "$card"),
        ({"rel_type": "m.reference", "event_id": "$poll"}, "$poll"),
        ({"rel_type": "m.thread", "event_id": "$root", "m.in_reply_to": {"event_id": "$e"}}, "$e"),
        ({"m.in_reply_to": "$card"}, None),
        ({"event_id": 1}, None),
        ("junk", None),
    ],
)
def test_what_a_message_is_attached_to_is_read_from_any_relation(
    relation: object, answered: str | None
) -> None:
    assert find_answered(relation) == answered


def test_an_edit_mentions_nobody_and_keeps_the_whole_text_for_old_clients() -> None:
    message = Outgoing("card", room_id="!r", mentions=("@a:x",), html="<b>card</b>", edits="k")
    content = message_content(message, edited="$card", thread=None)

    assert content["m.new_content"]["m.mentions"] == content["m.mentions"] == {}
    assert content["m.relates_to"] == {"rel_type": "m.replace", "event_id": "$card"}
    assert (content["body"], content["m.new_content"]["body"]) == ("* card", "card")


def test_a_poll_without_poll_support_is_still_a_numbered_list() -> None:
    options = (PollOption("c:1", "同意"), PollOption("c:2", "不同意"))
    content = poll_content(Outgoing("请决定\nmore", room_id="!r", poll=options))

    assert content["org.matrix.msc1767.text"] == "请决定\n1. 同意\n2. 不同意"


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": "日"}) == digest({"b": "日", "a": 1})


def test_a_burst_is_handled_at_once_and_the_rest_at_the_steady_rate() -> None:
    rates = Rates(burst=3, per_second=2)
    assert [rates.take("@a:x", 0) for _ in range(3)] == [0, 0, 0]
    wait = rates.take("@a:x", 0)
    assert 500 <= wait <= 501
    assert rates.take("@b:x", 0) == 0
    assert rates.take("@a:x", wait) == 0
    assert rates.take("@a:x", wait) > 0


@pytest.mark.parametrize(
    ("user_id", "admitted"),
    [
        ("@a:office.example", True),
        ("@a:b.partner.example", True),
        ("@a:partner.example", False),
        ("@a:elsewhere.example", False),
        ("@a:office.example.evil", False),
        ("", False),
    ],
)
def test_only_people_of_the_own_and_of_listed_servers_are_admitted(
    user_id: str, *, admitted: bool
) -> None:
    admission = Admission("office.example", ("*.partner.example",))
    assert admission.admits(user_id) is admitted
