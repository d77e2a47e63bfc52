"""Between Matrix event contents and the plain values of `conversation`. Pure.

Polls are read and written in their unstable form (MSC3381), which is what clients speak, and
read in the stable form as well.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from yizhan_bots.conversation import PollAnswer, Reaction, Text
from yizhan_bots.matrix.cross_signing import canonical_json
from yizhan_bots.matrix.sync import POLL_RESPONSES

if TYPE_CHECKING:
    from yizhan_bots.conversation import Outgoing

Json = dict[str, Any]

POLL_START: Final = "org.matrix.msc3381.poll.start"
_TEXT: Final = "org.matrix.msc1767.text"
_MOST_LABEL = 340
"""Characters; clients cut longer answers."""


def read_content(kind: str, content: Json, relation: object) -> Text | PollAnswer | Reaction | None:
    """Read what a person says; None for what is no business of the bot.

    `relation` is the cleartext `m.relates_to`. Notices and edits are ignored on purpose: bots
    must not answer bots, and a command that changes after it was given is a new command.
    """
    relation = relation if isinstance(relation, dict) else {}
    inner = content.get("m.relates_to")
    is_edit = relation.get("rel_type") == "m.replace" or "m.new_content" in content
    if is_edit or (isinstance(inner, dict) and inner.get("rel_type") == "m.replace"):
        return None
    if kind == "m.room.message":
        return _read_text(content, relation)
    if kind in POLL_RESPONSES:
        return _read_poll_answer(content)
    if kind == "m.reaction":
        target, key = relation.get("event_id"), relation.get("key")
        if isinstance(target, str) and isinstance(key, str):
            return Reaction(target, key)
    return None


def find_answered(relation: object) -> str | None:
    """Return the event that a reply or a poll answer is attached to, by its `m.relates_to`."""
    if not isinstance(relation, dict):
        return None
    reply = relation.get("m.in_reply_to")
    inner = reply if isinstance(reply, dict) else relation
    target = inner.get("event_id")
    return target if isinstance(target, str) else None


def _read_text(content: Json, relation: Json) -> Text | None:
    body = content.get("body")
    if content.get("msgtype") != "m.text" or not isinstance(body, str):
        return None
    mentions = content.get("m.mentions")
    named = mentions.get("user_ids") if isinstance(mentions, dict) else None
    reply = relation.get("m.in_reply_to")
    target = reply.get("event_id") if isinstance(reply, dict) else None
    replies_to = target if isinstance(target, str) else None
    return Text(
        _without_fallback(body) if replies_to else body,
        tuple(u for u in named if isinstance(u, str)) if isinstance(named, list) else (),
        replies_to,
    )


def _without_fallback(body: str) -> str:
    lines = body.split("\n")
    quoted = 0
    while quoted < len(lines) and lines[quoted].startswith("> "):
        quoted += 1
    if quoted and quoted < len(lines) and not lines[quoted]:
        return "\n".join(lines[quoted + 1 :])
    return body


def _read_poll_answer(content: Json) -> PollAnswer | None:
    answers: object = content.get("m.selections")
    unstable = content.get("org.matrix.msc3381.poll.response")
    if isinstance(unstable, dict):
        answers = unstable.get("answers")
    if isinstance(answers, list) and answers and isinstance(answers[0], str):
        return PollAnswer(answers[0])
    return None


def digest(content: Json) -> str:
    """The SHA-256 (hex) of the content's canonical JSON."""
    return hashlib.sha256(canonical_json(content)).hexdigest()


def message_content(message: Outgoing, *, edited: str | None, thread: str | None) -> Json:
    """The content of `m.room.message`; `edited` and `thread` are event ids of ours."""
    content: Json = {
        # A notice is never answered by a bot and makes no noise.
        "msgtype": "m.text" if message.mentions else "m.notice",
        "body": message.text,
        "m.mentions": {"user_ids": list(message.mentions)} if message.mentions else {},
    }
    if message.html is not None:
        content |= {"format": "org.matrix.custom.html", "formatted_body": message.html}
    if edited is not None:
        new = content | {"m.mentions": {}}
        content = new | {"body": f"* {message.text}", "m.new_content": new}
        if message.html is not None:
            content["formatted_body"] = f"* {message.html}"
        content["m.relates_to"] = {"rel_type": "m.replace", "event_id": edited}
    elif thread is not None:
        content["m.relates_to"] = {
            "rel_type": "m.thread",
            "event_id": thread,
            "is_falling_back": message.replies_to is None,
            "m.in_reply_to": {"event_id": message.replies_to or thread},
        }
    elif message.replies_to is not None:
        content["m.relates_to"] = {"m.in_reply_to": {"event_id": message.replies_to}}
    return content


def poll_content(message: Outgoing) -> Json:
    """The content of the poll that follows a message."""
    question = message.text.partition("\n")[0]
    options = [(option.id, option.label[:_MOST_LABEL]) for option in message.poll]
    fallback = "\n".join([question, *(f"{n}. {label}" for n, (_, label) in enumerate(options, 1))])
    return {
        POLL_START: {
            "question": {_TEXT: question, "body": question, "msgtype": "m.text"},
            "kind": "org.matrix.msc3381.poll.disclosed",
            "max_selections": 1,
            "answers": [{"id": name, _TEXT: label} for name, label in options],
        },
        _TEXT: fallback,
        "m.mentions": {},
    }
