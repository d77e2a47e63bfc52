"""The acts of approval, each behind the one gate that allows it.

Whoever acts first obtains a `Witness` (this message was encrypted by a device of that pinned
identity) and, to decide, a `DecidableTask` (it names this very task, as it is now, and the task
is the witness's own). `decide` demands both, so no path leads around the gate.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from yizhan_bots.conversation import Actor, Incoming, Standing

from . import storage
from .codes import SHORT_LENGTH, code_of, fold_code, new_id, new_short
from .events import (
    BOT,
    Action,
    Evidence,
    Recorded,
    Request,
    State,
    Step,
    Submission,
    Task,
    record_event,
    write_time,
)
from .forms import PRACTICE, Form, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_database import Database, Transaction

URGE_EVERY_MS = 3_600_000
"""An applicant may urge once an hour."""


@dataclass(frozen=True, slots=True)
class Witness:
    """Proof that a pinned identity wrote a message. Only `access_witness` makes one."""

    actor: Actor
    evidence: Evidence


def access_witness(incoming: Incoming) -> Witness | None:
    """Return who may be held to this message, or None when nobody can be."""
    if incoming.standing is not Standing.VERIFIED:
        return None
    if incoming.actor is None:
        return None
    # The homeserver writes `sender`; a message that it shows under another name than that of
    # its key is nobody's, whatever the runner made of it.
    if incoming.actor.user_id != incoming.sender:
        return None
    if not incoming.encrypted_room:
        return None
    actor = incoming.actor
    evidence = Evidence(
        event_id=incoming.event_id,
        room_id=incoming.room_id,
        digest=incoming.digest,
        master_key=actor.master_key,
        device_id=actor.device_id,
        device_ed25519=actor.device_ed25519,
        sent_ms=incoming.sent_ms,
        received_ms=incoming.received_ms,
    )
    return Witness(actor, evidence)


class Verdict(Enum):
    """What an approver decides."""

    APPROVE = "approve"
    REJECT = "reject"


class Refusal(Enum):
    """Why a decision is not carried out."""

    UNKNOWN_CODE = "unknown_code"
    NOT_YOURS = "not_yours"
    CODE_CHANGED = "code_changed"
    CLOSED = "closed"
    """Decided already, or the request ended without this task."""


@dataclass(frozen=True, slots=True)
class DecidableTask:
    """Proof that a code names an open task of the witness, whose request is unchanged."""

    request: Request
    task: Task
    witness: Witness


@dataclass(frozen=True, slots=True)
class Refused:
    """A decision that is not carried out. `request` and `task` as far as the code names one."""

    why: Refusal
    request: Request | None = None
    task: Task | None = None


class Desk:
    """Where requests are handed in and decided."""

    def __init__(self, db: Database, secret: bytes, now_ms: Callable[[], int]) -> None:
        self.db = db
        self._secret = secret
        self._now_ms = now_ms

    def code(self, request: Request, task: Task) -> str:
        """Return the code that decides the task."""
        return code_of(self._secret, task.id, task.short, request.digest)

    async def find_task(self, code: str) -> tuple[Request, Task] | None:
        """Return the task that a folded code names, or None.

        That is the one whose whole code fits, else the latest with its first four characters.
        """
        named = await storage.tasks_named(self.db, code[:SHORT_LENGTH])
        fitting = (found for found in named if self.code(*found) == code)
        return next(fitting, named[0] if named else None)

    async def access_task(self, code: str, witness: Witness) -> DecidableTask | Refused:
        """Judge whether `witness` may decide what `code` names."""
        found = await self.find_task(code)
        if found is None:
            return Refused(Refusal.UNKNOWN_CODE)
        request, task = found
        fits = self.code(request, task) == code
        if task.assignee != witness.actor.user_id:
            # Only who holds the whole code has been shown the task, and may learn that it is.
            return Refused(Refusal.NOT_YOURS if fits else Refusal.UNKNOWN_CODE, request, task)
        if not fits:
            return Refused(Refusal.CODE_CHANGED, request, task)
        if task.state is not State.OPEN:
            return Refused(Refusal.CLOSED, request, task)
        return DecidableTask(request, task, witness)

    async def submit(
        self,
        tx: Transaction,
        witness: Witness,
        form: Form,
        *,
        fields: dict[str, Value],
        approver: str,
        room: str | None,
    ) -> Request:
        """Hand in a request with one approver and open that approver's task."""
        if approver == witness.actor.user_id:
            raise ValueError("nobody decides a request of their own")
        applicant = witness.actor.user_id
        return await self._submit(
            tx, applicant, witness.evidence, form, fields=fields, approver=approver, room=room
        )

    async def start_practice(self, tx: Transaction, learner: str, reason: str) -> Request:
        """Return the learner's open practice request, handed in now if there is none."""
        for request, _ in await storage.open_tasks_of(self.db, learner):
            if request.form is PRACTICE:
                return request
        return await self._submit(
            tx, BOT, None, PRACTICE, fields={"reason": reason}, approver=learner, room=None
        )

    async def _submit(
        self,
        tx: Transaction,
        applicant: str,
        evidence: Evidence | None,
        form: Form,
        *,
        fields: dict[str, Value],
        approver: str,
        room: str | None,
    ) -> Request:
        now = self._now_ms()
        short = new_short()
        while not await storage.is_short_free(self.db, short):
            short = new_short()
        submission = record_event(
            Submission(
                v=1,
                id=new_id(now),
                ref=short,
                template=form.id,
                template_version=form.version,
                template_hash=form.hash,
                applicant=applicant,
                fields=fields,
                created=write_time(now),
                salt=secrets.token_hex(32),
                room=room,
                evidence=evidence,
            )
        )
        assert isinstance(submission.event, Submission)
        opened = record_event(
            Step(
                v=1,
                request=submission.event.id,
                seq=1,
                action=Action.OPEN,
                actor=BOT,
                prev=submission.hash,
                level="system",
                at=write_time(now),
                task=new_id(now),
                node=1,
                assignee=approver,
                short=short,
            )
        )
        return storage.append_events(tx, None, [submission, opened])

    def decide(
        self, tx: Transaction, decidable: DecidableTask, verdict: Verdict, opinion: str
    ) -> Request:
        """Record the decision; return the request as it stands then."""
        action = Action.APPROVE if verdict is Verdict.APPROVE else Action.REJECT
        step = self._step(
            decidable.request, action, decidable.witness, decidable.task.id, opinion or None
        )
        return storage.append_events(tx, decidable.request, [step])

    def withdraw(self, tx: Transaction, request: Request, witness: Witness) -> Request:
        """Record that the applicant no longer wants an open request."""
        step = self._step(request, Action.WITHDRAW, witness)
        return storage.append_events(tx, request, [step])

    def urge(self, tx: Transaction, request: Request, witness: Witness) -> Request:
        """Record that the applicant reminds the approvers of an open request."""
        return storage.append_events(tx, request, [self._step(request, Action.URGE, witness)])

    def urge_wait_ms(self, request: Request) -> int:
        """Return how long the applicant must still wait before urging again."""
        if request.urged_ms is None:
            return 0
        return max(0, request.urged_ms + URGE_EVERY_MS - self._now_ms())

    async def find_visible(self, name: str, user_id: str) -> Request | None:
        """Return the request that a number or code names, if the person has a part in it."""
        code = fold_code(name)
        if code is None:
            return None
        requests = await storage.requests_named(self.db, code[:SHORT_LENGTH])
        tasks = await storage.tasks_named(self.db, code[:SHORT_LENGTH])
        for request in (*requests, *(request for request, _ in tasks)):
            if user_id == request.applicant or any(t.assignee == user_id for t in request.tasks):
                return request
        return None

    def _step(
        self,
        request: Request,
        action: Action,
        witness: Witness,
        task: str | None = None,
        opinion: str | None = None,
    ) -> Recorded:
        return record_event(
            Step(
                v=1,
                request=request.id,
                seq=request.rev,
                action=action,
                actor=witness.actor.user_id,
                prev=request.head,
                level="L1",
                at=write_time(self._now_ms()),
                task=task,
                opinion=opinion,
                evidence=witness.evidence,
            )
        )
