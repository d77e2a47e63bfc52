"""What happened to a request, as an append-only chain, and what follows from it.

`Submission` is the first event of a request, every further one is a `Step`; each names the
hash of the one before. `apply` folds one event into the `Request`: it is the only place that
says what an event means, both when it is recorded and when everything is rebuilt. It trusts
nothing: a chain with a gap, a foreign decision or a second one does not fold.

A new verb is a new `Action` with its case in `apply`; a route of several nodes is more `OPEN`
steps, written when the node before is done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

from .canonical import canonical_bytes, digest, split_canonical
from .forms import FORMS, Form, Value

BOT = "bot"
"""The actor of what the system does by itself, and the applicant of a practice request."""


class Action(Enum):
    """What a step does."""

    OPEN = "open"
    """A task is given to somebody."""
    APPROVE = "approve"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    URGE = "urge"


class State(Enum):
    """Where a request or a task stands. A task whose request ended without it is `VOID`."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    VOID = "void"


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known about the encrypted message that caused an event (level L1)."""

    event_id: str
    room_id: str
    digest: str
    """SHA-256 of the decrypted content's canonical JSON, hexadecimal."""
    master_key: str
    device_id: str
    device_ed25519: str
    sent_ms: int
    """The homeserver's claim."""
    received_ms: int
    """The bot's clock."""


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The first event: who asks for what. Kind `approval-request`."""

    v: int
    id: str
    ref: str
    """Four characters that people say when they mean this request."""
    template: str
    template_version: int
    template_hash: str
    applicant: str
    fields: dict[str, Value]
    created: str
    salt: str
    """32 random bytes in hexadecimal: its hash may be published without giving it away."""
    room: str | None = None
    """Where its card is; the applicant's direct room when absent."""
    evidence: Evidence | None = None


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every later event. Kind `approval-step`."""

    v: int
    request: str
    seq: int
    action: Action
    actor: str
    prev: str
    level: str
    """`L1`: an encrypted message with the code; `system`: the bot itself."""
    at: str
    task: str | None = None
    node: int | None = None
    assignee: str | None = None
    short: str | None = None
    opinion: str | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One person's part of a request."""

    id: str
    request: str
    node: int
    assignee: str
    short: str
    state: State
    opened_ms: int
    decided_ms: int | None = None
    opinion: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that follows from a request's events so far."""

    id: str
    ref: str
    form: Form
    applicant: str
    fields: dict[str, Value]
    room: str | None
    digest: str
    """Of the submission: what the codes are bound to."""
    state: State
    created_ms: int
    rev: int
    """How many events there are."""
    head: str
    """Hash of the latest event."""
    tasks: tuple[Task, ...] = ()
    urged_ms: int | None = None

    def task(self, task_id: str) -> Task:
        """Return the task with that id."""
        return next(task for task in self.tasks if task.id == task_id)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event with the bytes that are kept."""

    event: Submission | Step
    canonical: bytes

    @property
    def hash(self) -> str:
        """What the next event names as `prev`."""
        return digest(self.canonical)


class BrokenChain(Exception):
    """Events that do not follow from one another: somebody has written into the database."""


def record_event(event: Submission | Step) -> Recorded:
    """Return the event with its canonical bytes."""
    kind = "approval-request" if isinstance(event, Submission) else "approval-step"
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return Recorded(event, canonical_bytes(kind, fields))


def read_event(canonical: bytes) -> Recorded:
    """Return the event that canonical bytes hold. BrokenChain when they hold none."""
    kinds: dict[str, type[Submission | Step]] = {
        "approval-request": Submission,
        "approval-step": Step,
    }
    try:
        kind, text = split_canonical(canonical)
        event = msgspec.json.decode(text, type=kinds[kind])
    except (ValueError, KeyError, msgspec.DecodeError) as error:
        raise BrokenChain(str(error)) from error
    if record_event(event).canonical != canonical:
        raise BrokenChain("the bytes are not canonical")
    return Recorded(event, canonical)


def apply(request: Request | None, recorded: Recorded) -> Request:
    """Return the request as it stands after one more event. BrokenChain when it cannot follow."""
    event = recorded.event
    if isinstance(event, Submission):
        _require(request is None, "a second submission")
        form = FORMS.get(event.template)
        if form is None:
            raise BrokenChain(f"unknown form {event.template}")
        return Request(
            id=event.id,
            ref=event.ref,
            form=form,
            applicant=event.applicant,
            fields=event.fields,
            room=event.room,
            digest=recorded.hash,
            state=State.OPEN,
            created_ms=parse_time(event.created),
            rev=1,
            head=recorded.hash,
        )
    if request is None:
        raise BrokenChain("a step before the submission")
    _require(event.request == request.id, "a step of another request")
    _require(event.seq == request.rev, "a gap in the numbers")
    _require(event.prev == request.head, "the hash of the event before does not fit")
    _require(request.state is State.OPEN, "a step after the end")
    after = replace(request, rev=request.rev + 1, head=recorded.hash)
    match event.action:
        case Action.OPEN:
            return replace(after, tasks=(*request.tasks, _opened(event)))
        case Action.APPROVE:
            return _decided(after, event, State.APPROVED)
        case Action.REJECT:
            return _decided(after, event, State.REJECTED)
        case Action.WITHDRAW:
            _require(event.actor == request.applicant, "withdrawn by somebody else")
            return _ended(after, State.WITHDRAWN)
        case Action.URGE:
            _require(event.actor == request.applicant, "urged by somebody else")
            return replace(after, urged_ms=parse_time(event.at))


def _opened(event: Step) -> Task:
    if event.task is None or event.node is None or event.assignee is None or event.short is None:
        raise BrokenChain("an opened task lacks a part")
    return Task(
        id=event.task,
        request=event.request,
        node=event.node,
        assignee=event.assignee,
        short=event.short,
        state=State.OPEN,
        opened_ms=parse_time(event.at),
    )


def _decided(request: Request, event: Step, state: State) -> Request:
    task = next((t for t in request.tasks if t.id == event.task), None)
    if task is None:
        raise BrokenChain("a decision of no task")
    _require(task.state is State.OPEN, "a second decision")
    _require(event.actor == task.assignee, "decided by somebody else")
    done = replace(task, state=state, decided_ms=parse_time(event.at), opinion=event.opinion or "")
    request = replace(request, tasks=tuple(done if t is task else t for t in request.tasks))
    if state is State.REJECTED or all(t.state is State.APPROVED for t in request.tasks):
        return _ended(request, state)
    return request


def _ended(request: Request, state: State) -> Request:
    tasks = (replace(t, state=State.VOID) if t.state is State.OPEN else t for t in request.tasks)
    return replace(request, state=state, tasks=tuple(tasks))


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise BrokenChain(otherwise)


def write_time(ms: int) -> str:
    """Return a time as RFC 3339 in UTC with milliseconds."""
    text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms % 1000:03d}Z"


def parse_time(text: str) -> int:
    """Return milliseconds since the epoch."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
