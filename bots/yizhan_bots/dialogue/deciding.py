"""Decisions: the gate's answer in words, the record, and who is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_bots.approvals import cards
from yizhan_bots.approvals.codes import show_code
from yizhan_bots.approvals.desk import DecidableTask, Refusal, Refused, Verdict
from yizhan_bots.approvals.events import BOT, Request, State, Task
from yizhan_bots.conversation import Outgoing
from yizhan_bots.wording import approvals as wording

if TYPE_CHECKING:
    from .call import Call
    from .grammar import Decision


async def decide(call: Call, decision: Decision) -> None:
    """Carry a decision out, or say why not; either way it is on the record."""
    outcome = await call.around.desk.access_task(decision.code, call.witness)
    if isinstance(outcome, Refused):
        _refuse(call, decision, outcome)
        return
    code = show_code(decision.code)
    if not decision.clear:
        call.record("refused", "unclear", outcome.request)
        call.reply(call.say(wording.OPINION_UNCLEAR, code=code))
        return
    if minutes := call.around.late_minutes(call.incoming):
        digit = 1 if decision.verdict is Verdict.APPROVE else 2
        call.record("late", "late", outcome.request)
        call.reply(call.say(wording.LATE_DECISION, minutes=minutes, code=code, digit=digit))
        return
    await _carry_out(call, decision, outcome)


async def _carry_out(call: Call, decision: Decision, decidable: DecidableTask) -> None:
    request = call.around.desk.decide(call.tx, decidable, decision.verdict, decision.opinion)
    task = request.task(decidable.task.id)
    _note_redirection(call, request, task)
    approved = task.state is State.APPROVED
    reader = call.reader
    if request.applicant == BOT:
        call.reply(reader.say(wording.PRACTICE_DONE))
    else:
        call.reply(
            reader.say(
                wording.DECIDED_APPROVED if approved else wording.DECIDED_REJECTED,
                node=task.node,
                applicant=reader.name(request.applicant),
                form=reader.say(request.form.title),
                ref=request.ref,
            )
        )
    await update_cards(call, request)
    if request.applicant == BOT:
        return
    reader = await call.around.reader_of(request.applicant)
    result = reader.say(
        wording.RESULT_APPROVED if approved else wording.RESULT_REJECTED,
        node=task.node,
        assignee=reader.name(task.assignee),
        form=reader.say(request.form.title),
        ref=request.ref,
    )
    if task.opinion:
        result += "\n" + reader.say(wording.STEP_OPINION, opinion=task.opinion).strip()
    call.send(
        Outgoing(
            result,
            room_id=request.room,
            direct_to=None if request.room else request.applicant,
            mentions=(request.applicant,),
            thread=f"request:{request.id}",
        )
    )


def _note_redirection(call: Call, request: Request, task: Task) -> None:
    """Put on the record that the decision is shown under the card of another task.

    A slip of the approver's, or the homeserver has changed the relation. The code inside the
    ciphertext has decided either way.
    """
    attached_to = call.incoming.attached_to or ""
    if attached_to.startswith("task:") and attached_to != f"task:{task.id}":
        call.record("redirected", attached_to, request)


async def update_cards(call: Call, request: Request) -> None:
    """Edit the applicant's card and those of all approvers to how the request stands now."""
    if request.applicant != BOT:
        reader = await call.around.reader_of(request.applicant)
        call.send(
            Outgoing(
                cards.request_card(request, reader),
                room_id=request.room,
                direct_to=None if request.room else request.applicant,
                edits=f"request:{request.id}",
            )
        )
    for task in request.tasks:
        reader = (
            call.reader
            if task.assignee == call.user_id
            else await call.around.reader_of(task.assignee)
        )
        code = call.around.desk.code(request, task)
        call.send(
            Outgoing(
                cards.task_card(request, task, code, reader),
                direct_to=task.assignee,
                edits=f"task:{task.id}",
            )
        )


def _refuse(call: Call, decision: Decision, refused: Refused) -> None:
    repeated = False
    if refused.why is Refusal.CLOSED:
        assert refused.request is not None
        assert refused.task is not None
        repeated = _is_repeated(decision.verdict, refused.task)
        call.reply(_closed(call, refused.request, refused.task, repeated=repeated))
    else:
        sentence = {
            Refusal.UNKNOWN_CODE: wording.UNKNOWN_CODE,
            Refusal.NOT_YOURS: wording.NOT_YOURS,
            Refusal.CODE_CHANGED: wording.CODE_CHANGED,
        }[refused.why]
        call.reply(call.say(sentence, code=show_code(decision.code)))
    call.record("repeated" if repeated else "refused", refused.why.value, refused.request)


def _is_repeated(verdict: Verdict, task: Task) -> bool:
    done = {Verdict.APPROVE: State.APPROVED, Verdict.REJECT: State.REJECTED}
    return task.state is done[verdict]


def _closed(call: Call, request: Request, task: Task, *, repeated: bool) -> str:
    if task.decided_ms is None:
        withdrawn = request.state is State.WITHDRAWN
        sentence = wording.CLOSED_WITHDRAWN if withdrawn else wording.CLOSED_OTHERWISE
        return call.say(sentence, ref=request.ref)
    approved = task.state is State.APPROVED
    sentence = wording.ALREADY_APPROVED if approved else wording.ALREADY_REJECTED
    text = call.say(sentence, at=call.reader.time(task.decided_ms), ref=request.ref)
    return text if repeated else f"{text}\n{call.say(wording.CANNOT_REVERSE)}"
