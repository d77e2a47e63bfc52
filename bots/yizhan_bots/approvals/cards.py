"""A request, a task and a history as text, for one reader."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING

from yizhan_bots.conversation import PollOption
from yizhan_bots.wording import Language, Sentence
from yizhan_bots.wording import approvals as wording
from yizhan_bots.wording.values import clean_line

from .codes import show_code
from .events import BOT, Action, Recorded, Request, State, Step, Submission, Task, parse_time
from .forms import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHINA = timezone(timedelta(hours=8))
"""One offset all year: no time-zone database is needed."""

_STATES = {
    State.OPEN: wording.STATE_OPEN,
    State.APPROVED: wording.STATE_APPROVED,
    State.REJECTED: wording.STATE_REJECTED,
    State.WITHDRAWN: wording.STATE_WITHDRAWN,
}
_STEPS = {
    State.OPEN: wording.STEP_WAITING,
    State.APPROVED: wording.STEP_APPROVED,
    State.REJECTED: wording.STEP_REJECTED,
    State.VOID: wording.STEP_VOID,
}
_HISTORY = {
    Action.OPEN: wording.HISTORY_OPENED,
    Action.APPROVE: wording.HISTORY_APPROVED,
    Action.REJECT: wording.HISTORY_REJECTED,
    Action.WITHDRAW: wording.HISTORY_WITHDRAWN,
    Action.URGE: wording.HISTORY_URGED,
}


@dataclass(frozen=True, slots=True)
class Reader:
    """In which language and time zone a text is written, and what people are called."""

    language: Language
    display_name: Callable[[str], str | None]
    zone: tzinfo = CHINA

    def say(self, sentence: Sentence, **values: object) -> str:
        """Return a sentence in the reader's language."""
        return sentence(self.language, **values)

    def name(self, user_id: str) -> str:
        """Return a person's name with the full id: names come from the homeserver."""
        if user_id == BOT:
            return self.say(wording.BOT_NAME)
        name = " ".join(clean_line(self.display_name(user_id) or "").split())[:60]
        if not name or name == user_id:
            return user_id
        return f"{name}（{user_id}）" if self.language == "zh" else f"{name} ({user_id})"

    def time(self, ms: int) -> str:
        """Return day and minute in the reader's time zone."""
        return (
            datetime.fromtimestamp(ms / 1000, UTC).astimezone(self.zone).strftime("%Y-%m-%d %H:%M")
        )

    def state(self, state: State) -> str:
        """Return how a request stands."""
        return self.say(_STATES[state])


def request_card(request: Request, reader: Reader) -> str:
    """Return the applicant's card: content, route with marks, state, what can be done."""
    lines = [
        reader.say(
            wording.CARD_TITLE,
            form=reader.say(request.form.title),
            applicant=reader.name(request.applicant),
            ref=request.ref,
        ),
        *content_lines(request, reader),
        *(_step_line(task, reader) for task in request.tasks),
        reader.say(wording.CARD_STATE, state=reader.state(request.state)),
    ]
    if request.state is State.OPEN:
        lines.append(reader.say(wording.CARD_HINT, ref=request.ref))
    return "\n".join(lines)


def task_card(request: Request, task: Task, code: str, reader: Reader) -> str:
    """Return the approver's card; its first line is the question of the poll."""
    title = reader.say(
        wording.TASK_TITLE,
        applicant=reader.name(request.applicant),
        form=reader.say(request.form.title),
        code=show_code(code),
    )
    lines = [title, *content_lines(request, reader)]
    if task.state is State.OPEN:
        lines.append(reader.say(wording.TASK_HOW, code=show_code(code)))
    else:
        lines.append(_step_line(task, reader))
        lines.append(reader.say(wording.CARD_STATE, state=reader.state(request.state)))
    return "\n".join(lines)


def task_poll(code: str, reader: Reader) -> tuple[PollOption, ...]:
    """Return the two answers; their ids carry the code, and come back encrypted."""
    shown = show_code(code)
    return (
        PollOption(f"{code}:approve", reader.say(wording.POLL_APPROVE, code=shown)),
        PollOption(f"{code}:reject", reader.say(wording.POLL_REJECT, code=shown)),
    )


def content_lines(request: Request, reader: Reader) -> list[str]:
    """Return one line for each field."""
    return [
        reader.say(
            wording.CARD_FIELD,
            label=reader.say(field.label),
            value=field.kind.write(request.fields[field.name], reader.language),
        )
        for field in request.form.fields
        if field.name in request.fields
    ]


def summary(request: Request, reader: Reader) -> str:
    """Return what the request is about in a few words: everything but free text."""
    return " ".join(
        field.kind.write(request.fields[field.name], reader.language)
        for field in request.form.fields
        if field.kind is not Kind.TEXT and field.name in request.fields
    )


def history(chain: Sequence[Recorded], reader: Reader) -> list[tuple[int, str]]:
    """Return what happened, as (time, line)."""
    return [_history_line(recorded.event, reader) for recorded in chain]


def _history_line(event: Submission | Step, reader: Reader) -> tuple[int, str]:
    if isinstance(event, Submission):
        at = parse_time(event.created)
        who = reader.name(event.applicant)
        return at, reader.say(wording.HISTORY_SUBMITTED, at=reader.time(at), who=who)
    at = parse_time(event.at)
    who = reader.name(event.assignee or event.actor)
    line = reader.say(_HISTORY[event.action], at=reader.time(at), who=who, node=event.node)
    if event.opinion:
        line += reader.say(wording.STEP_OPINION, opinion=event.opinion)
    return at, line


def _step_line(task: Task, reader: Reader) -> str:
    at = "" if task.decided_ms is None else reader.time(task.decided_ms)
    line = reader.say(_STEPS[task.state], assignee=reader.name(task.assignee), at=at)
    if task.opinion:
        line += reader.say(wording.STEP_OPINION, opinion=task.opinion)
    return line
