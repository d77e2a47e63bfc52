"""Lists of requests, one request in detail, withdrawing and urging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_bots.approvals import cards, storage
from yizhan_bots.approvals.codes import fold_code, show_code
from yizhan_bots.approvals.events import BOT, Request, State
from yizhan_bots.conversation import Outgoing
from yizhan_bots.wording import approvals as wording
from yizhan_bots.wording import dialogue as dialogue_wording

from .commands import Verb
from .deciding import update_cards
from .grammar import parse_number
from .memory import ChoosingRequest, irregularities_of

if TYPE_CHECKING:
    from .call import Call


async def list_todo(call: Call) -> None:
    """Answer with what waits for the person's decision."""
    found = await storage.open_tasks_of(call.around.db, call.user_id)
    if not found:
        call.reply(call.say(wording.TODO_NONE))
        return
    count = await storage.count_open_tasks(call.around.db, call.user_id)
    lines = [call.say(wording.TODO_TITLE, count=count)]
    for request, task in found:
        lines.append(
            call.say(
                wording.TODO_ITEM,
                code=show_code(call.around.desk.code(request, task)),
                applicant=call.reader.name(request.applicant),
                form=call.say(request.form.title),
                summary=cards.summary(request, call.reader),
            ).rstrip()
        )
    lines.append(call.say(wording.TODO_HOW))
    # Codes belong to one person: in a group they are sent to that person's direct room.
    call.ask("\n".join(lines))


async def list_mine(call: Call) -> None:
    """Answer with the person's latest requests."""
    requests = await storage.requests_of(call.around.db, call.user_id)
    if not requests:
        call.reply(call.say(wording.MINE_NONE))
        return
    lines = [call.say(wording.MINE_TITLE), *(_item(call, request) for request in requests)]
    lines.append(call.say(wording.MINE_HOW))
    call.ask("\n".join(lines))


async def tell_statistics(call: Call) -> None:
    """Answer with how many requests of the person stand how."""
    counts = await storage.count_by_state(call.around.db, call.user_id)
    by_name = {
        state.value: counts.get(state, 0)
        for state in (State.OPEN, State.APPROVED, State.REJECTED, State.WITHDRAWN)
    }
    waiting = await storage.count_open_tasks(call.around.db, call.user_id)
    call.ask(call.say(wording.STATISTICS, waiting=waiting, **by_name))


def _item(call: Call, request: Request) -> str:
    return call.say(
        wording.MINE_ITEM,
        ref=request.ref,
        form=call.say(request.form.title),
        summary=cards.summary(request, call.reader),
        state=call.reader.state(request.state),
    )


async def act_on(call: Call, verb: Verb, name: str) -> None:
    """Show, withdraw or urge the request with that number; without one, offer a choice."""
    if not name:
        await _offer(call, verb)
        return
    request = await call.around.desk.find_visible(name, call.user_id)
    if request is None:
        folded = fold_code(name)
        call.reply(call.say(wording.NO_SUCH_REQUEST, ref=folded[:4] if folded else name[:20]))
        return
    await _act(call, verb, request)


async def choose(call: Call, question: ChoosingRequest) -> bool:
    """Take the message as the choice from a list; False when it is none."""
    number = parse_number(call.text)
    if number is None and fold_code(call.text) is None:
        return False
    if number is not None and 1 <= number <= len(question.shown):
        call.person.memory.question = None
        await _act(
            call,
            question.verb,
            await storage.get_request(call.around.db, question.shown[number - 1]),
        )
    elif fold_code(call.text) is not None:
        call.person.memory.question = None
        await act_on(call, question.verb, call.text)
    else:
        call.reply(call.say(dialogue_wording.CHOOSE_NUMBER, count=len(question.shown)))
    return True


async def _offer(call: Call, verb: Verb) -> None:
    state = None if verb is Verb.SHOW else State.OPEN
    requests = await storage.requests_of(call.around.db, call.user_id, state)
    if not requests:
        call.reply(call.say(wording.MINE_NONE if verb is Verb.SHOW else dialogue_wording.NONE_OPEN))
        return
    lines = [
        call.say(dialogue_wording.CHOICE, number=number, label=_item(call, request))
        for number, request in enumerate(requests, start=1)
    ]
    shown = [request.id for request in requests]
    call.person.memory.question = ChoosingRequest(verb, shown, call.around.now_ms())
    call.ask("\n".join([call.say(dialogue_wording.WHICH_REQUEST), *lines]))


async def _act(call: Call, verb: Verb, request: Request) -> None:
    if verb is Verb.SHOW:
        await _show(call, request)
        return
    word = call.say(wording.VERB_WITHDRAW if verb is Verb.WITHDRAW else wording.VERB_URGE)
    if request.applicant != call.user_id:
        call.record("refused", "not_applicant", request)
        call.reply(call.say(wording.NOT_APPLICANT, ref=request.ref, verb=word))
    elif request.state is not State.OPEN:
        call.record("refused", "closed", request)
        state = call.reader.state(request.state)
        call.reply(call.say(wording.NOT_OPEN, ref=request.ref, state=state, verb=word))
    elif verb is Verb.WITHDRAW:
        await _withdraw(call, request)
    else:
        await _urge(call, request)


async def _show(call: Call, request: Request) -> None:
    chain = await storage.chain_of(call.around.db, request.id)
    lines = cards.history(chain, call.reader)
    for at_ms, sender, matter, detail in await irregularities_of(call.around.db, request.id):
        redirected = matter == "redirected"
        why = wording.WHY.get(detail)
        lines.append(
            (
                at_ms,
                call.say(
                    wording.HISTORY_REDIRECTED if redirected else wording.HISTORY_REFUSED,
                    at=call.reader.time(at_ms),
                    who=call.reader.name(sender),
                    why=call.say(why) if why else detail,
                ),
            )
        )
    lines.sort(key=lambda line: line[0])
    text = [cards.request_card(request, call.reader), call.say(wording.HISTORY_TITLE)]
    text += [line for _, line in lines]
    for task in request.tasks:
        if task.assignee == call.user_id and task.state is State.OPEN:
            code = show_code(call.around.desk.code(request, task))
            text.append(call.say(wording.TASK_HOW, code=code))
    call.ask("\n".join(text))


async def _withdraw(call: Call, request: Request) -> None:
    waiting = [task.assignee for task in request.tasks if task.state is State.OPEN]
    request = call.around.desk.withdraw(call.tx, request, call.witness)
    call.reply(call.say(wording.WITHDRAWN, ref=request.ref))
    await update_cards(call, request)
    for assignee in waiting:
        reader = await call.around.reader_of(assignee)
        notice = reader.say(
            wording.WITHDRAWN_NOTICE,
            applicant=reader.name(request.applicant),
            form=reader.say(request.form.title),
            ref=request.ref,
        )
        call.send(Outgoing(notice, direct_to=assignee))


async def _urge(call: Call, request: Request) -> None:
    if wait_ms := call.around.desk.urge_wait_ms(request):
        minutes = -(-wait_ms // 60_000)
        call.reply(call.say(wording.URGED_ALREADY, ref=request.ref, minutes=minutes))
        return
    assert request.applicant != BOT
    request = call.around.desk.urge(call.tx, request, call.witness)
    for task in request.tasks:
        if task.state is not State.OPEN:
            continue
        reader = await call.around.reader_of(task.assignee)
        code = call.around.desk.code(request, task)
        title = reader.say(
            wording.URGE_TITLE,
            applicant=reader.name(request.applicant),
            form=reader.say(request.form.title),
            code=show_code(code),
        )
        how = reader.say(wording.TASK_HOW, code=show_code(code))
        content = cards.content_lines(request, reader)
        call.send(
            Outgoing(
                "\n".join([title, *content, how]),
                direct_to=task.assignee,
                mentions=(task.assignee,),
                thread=f"task:{task.id}",
            )
        )
        name = call.reader.name(task.assignee)
        call.reply(call.say(wording.URGED, assignee=name, ref=request.ref))
