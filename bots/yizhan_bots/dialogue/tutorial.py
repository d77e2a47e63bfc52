"""The first five messages to a person; the last one is a real request, to practise on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_bots.approvals import cards
from yizhan_bots.conversation import Outgoing
from yizhan_bots.wording import dialogue as wording

if TYPE_CHECKING:
    from yizhan_bots.approvals.cards import Reader
    from yizhan_bots.approvals.desk import Desk
    from yizhan_database import Transaction


async def tutorial(
    desk: Desk, tx: Transaction, learner: str, room_id: str | None, reader: Reader
) -> list[Outgoing]:
    """Return the tutorial for one person; it makes a practice request if none is open.

    It goes to `room_id`, or to the learner's direct room when that is None.
    """
    request = await desk.start_practice(tx, learner, reader.say(wording.PRACTICE_REASON))
    task = next(task for task in request.tasks if task.assignee == learner)
    code = desk.code(request, task)
    lessons = (wording.TUTORIAL_1, wording.TUTORIAL_2, wording.TUTORIAL_3, wording.TUTORIAL_4)
    direct_to = learner if room_id is None else None
    return [
        *(Outgoing(reader.say(lesson), room_id, direct_to) for lesson in lessons),
        Outgoing(
            cards.task_card(request, task, code, reader),
            room_id,
            direct_to,
            mentions=(learner,),
            poll=cards.task_poll(code, reader),
            key=f"task:{task.id}",
        ),
    ]
