"""Filling in a form: from one complete line, or one question at a time, to the submission.

A complete line is submitted at once. Where anything had to be asked, the whole is shown with
its exact dates and its approver, and submitted on "1": never more than one confirmation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_bots.approvals import cards, storage
from yizhan_bots.approvals.forms import FORMS, Field, Form, Kind
from yizhan_bots.conversation import Outgoing
from yizhan_bots.wording import approvals as approval_wording
from yizhan_bots.wording import dialogue as wording
from yizhan_bots.wording.values import NotUnderstood, fold

from .grammar import find_mxid, parse_assignments, parse_number
from .memory import Filling, people_who_greeted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yizhan_bots.approvals.cards import Reader
    from yizhan_bots.approvals.events import Request, Task

    from .call import Call

APPROVER = "approver"
CONFIRM = "confirm"
APPROVER_KEYS = ("审批人", "批准人", "审批", "approver", "by")
SHOWN_PEOPLE = 20
_SUBMIT = frozenset({"提交", "确认", "是", "好", "submit", "yes", "ok", "y"})
_CANCEL = frozenset({"不提交", "否", "no", "n"})


async def start_form(call: Call, form: Form, line: str) -> None:
    """Begin a form with whatever the line gives already."""
    filling = Filling(form.id, call.around.now_ms())
    call.person.memory.question = None
    if line:
        problem = await _take_assignments(call, filling, line)
        if problem is not None:
            if call.incoming.direct and (filling.values or filling.approver):
                call.reply(problem)
                await _proceed(call, filling)
            else:
                call.reply(problem)
            return
    await _proceed(call, filling)


async def answer_question(call: Call, filling: Filling) -> bool:
    """Take the message as the answer to the open question; False when it cannot be one.

    Free text takes everything. Elsewhere False leaves it to the caller to find a command, and
    then to say `why_not`.
    """
    keys = form_keys(FORMS[filling.form])
    if parse_assignments(call.text, keys).values:
        problem = await _take_assignments(call, filling, call.text)
        if problem is not None:
            call.reply(problem)
            return True
    else:
        try:
            if not await _take_answer(call, filling):
                return True
        except NotUnderstood:
            return False
    await _proceed(call, filling)
    return True


async def why_not(call: Call, filling: Filling) -> str:
    """Return why the message does not answer the open question; the question stays open."""
    try:
        await _take_answer(call, filling)
    except NotUnderstood as problem:
        return problem.say(call.language)
    raise AssertionError("the answer was understood after all")


def form_keys(form: Form) -> dict[str, str]:
    """Return what may stand before `=` in a line that fills in the form, and the field meant."""
    keys = {key: field.name for field in form.fields for key in field.keys}
    return keys | {fold(key): APPROVER for key in APPROVER_KEYS}


async def _take_assignments(call: Call, filling: Filling, line: str) -> str | None:
    """Take all `key=value` of the line; return the first problem, keeping what was right."""
    form = FORMS[filling.form]
    given = parse_assignments(line, form_keys(form))
    problem: str | None = None
    if given.stray:
        labels = [call.say(field.label) for field in form.fields]
        labels.append(call.say(wording.APPROVER_WORD))
        problem = call.say(
            wording.UNEXPECTED,
            text=given.stray[:40],
            keys="、".join(labels) if call.language == "zh" else ", ".join(labels),
            example=_example(form, call.reader),
        )
    for name, text in given.values.items():
        try:
            if name == APPROVER:
                filling.approver = await _find_approver(call, text)
            else:
                _take_value(call, filling, form.field(name), text)
        except NotUnderstood as error:
            problem = problem or error.say(call.language)
    return problem


def _take_value(call: Call, filling: Filling, field: Field, text: str) -> None:
    filling.values = {**filling.values, field.name: field.kind.parse(text, call.today())}


async def _take_answer(call: Call, filling: Filling) -> bool:
    """Take the answer; False when the form is finished with. NotUnderstood when it is none."""
    number = parse_number(call.text)
    if filling.asking == CONFIRM:
        word = fold(call.text).strip(" 。.!")
        if number == 1 or word in _SUBMIT:
            call.person.memory.question = None
            await _submit(call, filling)
        elif number == 2 or word in _CANCEL:
            call.person.memory.question = None
            call.reply(call.say(wording.CANCELLED))
        else:
            example = _example(FORMS[filling.form], call.reader)
            raise NotUnderstood(wording.CONFIRM_HOW, example=example)
        return False
    if filling.asking == APPROVER:
        filling.approver = await _choose_approver(call, filling, number)
        return True
    field = FORMS[filling.form].field(filling.asking)
    if field.choices and number is not None:
        if not 1 <= number <= len(field.choices):
            raise NotUnderstood(wording.CHOOSE_OR_WRITE, count=len(field.choices))
        _take_value(call, filling, field, call.say(field.choices[number - 1]))
    else:
        _take_value(call, filling, field, call.text)
    return True


async def _proceed(call: Call, filling: Filling) -> None:
    """Ask for what is missing, or confirm, or submit."""
    form = FORMS[filling.form]
    asked_before = filling.asking != ""
    filling.asked_ms = call.around.now_ms()
    missing = next((f for f in form.fields if f.name not in filling.values), None)
    if missing is not None:
        filling.asking = missing.name
        text = call.say(missing.question)
        if missing.choices:
            text += "\n" + _numbered([call.say(choice) for choice in missing.choices], call)
    elif filling.approver is None:
        people = await _candidates(call)
        if not people:
            call.person.memory.question = None
            call.reply(call.say(wording.NOBODY_GREETED))
            return
        filling.asking = APPROVER
        filling.shown = people[:SHOWN_PEOPLE]
        text = _people_question(call, filling.shown, len(people))
    elif not asked_before:
        await _submit(call, filling)
        return
    else:
        filling.asking = CONFIRM
        call.person.memory.question = filling
        call.ask(_confirmation(filling, call.reader))
        return
    call.person.memory.question = filling
    if not asked_before and not call.incoming.direct:
        call.reply(call.say(wording.CONTINUED_DIRECTLY))
    steps = [*(field.name for field in form.fields), APPROVER]
    question = call.say(
        wording.QUESTION,
        form=call.say(form.title),
        step=steps.index(filling.asking) + 1,
        steps=len(steps),
        question=text,
    )
    if not asked_before:
        question += await _open_tasks_hint(call)
    call.ask(question)


async def _open_tasks_hint(call: Call) -> str:
    """Remind an approver who sent a bare "1" that a decision needs its code."""
    if parse_number(call.text) is None:
        return ""
    count = await storage.count_open_tasks(call.around.db, call.user_id)
    return "\n" + call.say(wording.OPEN_TASKS_HINT, count=count) if count else ""


def _numbered(labels: Sequence[str], call: Call) -> str:
    return "\n".join(
        call.say(wording.CHOICE, number=number, label=label)
        for number, label in enumerate(labels, start=1)
    )


def _confirmation(filling: Filling, reader: Reader) -> str:
    form = FORMS[filling.form]
    assert filling.approver is not None
    lines = [f"【{reader.say(form.title)}】"]
    lines += [
        reader.say(
            approval_wording.CARD_FIELD,
            label=reader.say(field.label),
            value=field.kind.write(filling.values[field.name], reader.language),
        )
        for field in form.fields
    ]
    lines.append(
        reader.say(
            approval_wording.CARD_FIELD,
            label=reader.say(wording.APPROVER_WORD),
            value=reader.name(filling.approver),
        )
    )
    return reader.say(wording.CONFIRM, content="\n".join(lines), example=_example(form, reader))


def _example(form: Form, reader: Reader) -> str:
    samples: Mapping[Kind, tuple[str, str]] = {
        Kind.DATE: ("明天", "tomorrow"),
        Kind.DAYS: ("3", "3"),
        Kind.MONEY: ("128.50", "128.50"),
        Kind.TEXT: ("开会", "meeting"),
    }
    field = form.fields[0]
    zh, en = samples[field.kind]
    label = reader.say(field.label)
    return f"{label}={zh}" if reader.language == "zh" else f"{label.lower()}={en}"


# Approvers.


async def _candidates(call: Call) -> list[str]:
    """Return who may be asked: those whom this person asked lately, then all by name."""
    people = await people_who_greeted(call.around.db)
    recent = await storage.recent_approvers(call.around.db, call.user_id)
    order = {user_id: place for place, user_id in enumerate(recent)}
    reader = call.reader

    def place(user_id: str) -> tuple[int, str]:
        return order.get(user_id, len(order)), reader.name(user_id)

    return sorted((p for p in people if p != call.user_id), key=place)


def _people_question(call: Call, shown: Sequence[str], count: int) -> str:
    text = call.say(wording.ASK_APPROVER)
    text += "\n" + _numbered([call.reader.name(user_id) for user_id in shown], call)
    if count > len(shown):
        text += "\n" + call.say(wording.MORE_APPROVERS, count=count - len(shown))
    return text


async def _choose_approver(call: Call, filling: Filling, number: int | None) -> str:
    if number is None:
        return await _find_approver(call, call.text)
    if not 1 <= number <= len(filling.shown):
        raise NotUnderstood(wording.CHOOSE_NUMBER, count=len(filling.shown))
    return filling.shown[number - 1]


async def _find_approver(call: Call, text: str) -> str:
    """Return the one person that an id, a mention or a full name means. NotUnderstood."""
    people = await people_who_greeted(call.around.db)
    if mxid := find_mxid(text):
        found = [mxid] if mxid in people else []
    else:
        found = people_named(call, text, people)
    if len(found) > 1 and len(pointed := [p for p in found if p in call.mentions]) == 1:
        found = pointed
    if len(found) > 1:
        raise NotUnderstood(wording.APPROVER_AMBIGUOUS, text=text[:40], people=" ".join(found))
    if not found:
        raise NotUnderstood(wording.APPROVER_UNKNOWN, text=text[:40])
    if found[0] == call.user_id:
        raise NotUnderstood(wording.APPROVER_SELF)
    return found[0]


def people_named(call: Call, text: str, people: Sequence[str]) -> list[str]:
    """Return those of `people` whose name, or id without its server, is `text`."""
    wanted = fold(text).strip().removeprefix("@").strip()
    found = []
    for user_id in people:
        name = call.around.people.display_name(user_id) or ""
        localpart = user_id.partition(":")[0].removeprefix("@")
        if wanted in {fold(name).strip(), localpart}:
            found.append(user_id)
    return found


# Submission.


async def _submit(call: Call, filling: Filling) -> None:
    assert filling.approver is not None
    request = await call.around.desk.submit(
        call.tx,
        call.witness,
        FORMS[filling.form],
        fields=dict(filling.values),
        approver=filling.approver,
        room=None if call.incoming.direct else call.incoming.room_id,
    )
    assignee = call.reader.name(filling.approver)
    call.reply(call.say(approval_wording.SUBMITTED, ref=request.ref, assignee=assignee))
    call.send(applicant_card(request, call.reader))
    for task in request.tasks:
        call.send(await approver_card(call, request, task))


def applicant_card(request: Request, reader: Reader) -> Outgoing:
    """Return the one message about a request that is edited from then on."""
    return Outgoing(
        cards.request_card(request, reader),
        room_id=request.room,
        direct_to=None if request.room else request.applicant,
        key=f"request:{request.id}",
    )


async def approver_card(call: Call, request: Request, task: Task) -> Outgoing:
    """Return the message that asks an approver to decide, with the poll."""
    reader = await call.around.reader_of(task.assignee)
    code = call.around.desk.code(request, task)
    return Outgoing(
        cards.task_card(request, task, code, reader),
        direct_to=task.assignee,
        mentions=(task.assignee,),
        poll=cards.task_poll(code, reader),
        key=f"task:{task.id}",
    )
