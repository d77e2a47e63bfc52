"""What administrators have set going and take a while: purges and removals, in memory.

A restart forgets what became of them; the record keeps that they were begun.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from yizhan_config.tasks import Background
    from yizhan_server.flows.room_removal import Closing

log = logging.getLogger(__name__)

REMEMBERED = 1000


@dataclass(slots=True)
class Task:
    """One of them; `status` is active, complete or failed."""

    task_id: str
    kind: str
    room_id: str
    status: str = "active"
    error: str | None = None
    closing: Closing | None = None
    """Of a removal: how far it has come."""


class Tasks:
    """Runs them, one at a time of a room, and remembers what became of them."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._tasks: OrderedDict[str, Task] = OrderedDict()

    def find(self, task_id: str, kind: str) -> Task | None:
        """Return a task, or None when it is not (or no longer) known."""
        task = self._tasks.get(task_id)
        return task if task is not None and task.kind == kind else None

    def of_room(self, room_id: str, kind: str) -> list[Task]:
        """Return the tasks of one kind of a room, in the order of their beginning."""
        return [t for t in self._tasks.values() if t.room_id == room_id and t.kind == kind]

    def check_idle(self, room_id: str) -> None:
        """Answer M_UNKNOWN while a task of the room runs."""
        if any(t.room_id == room_id and t.status == "active" for t in self._tasks.values()):
            raise MatrixError(400, "M_UNKNOWN", "The room is being purged or removed already")

    def begin(self, kind: str, room_id: str, closing: Closing | None = None) -> Task:
        """Note that a task begins, or answer M_UNKNOWN when another of the room has not ended."""
        self.check_idle(room_id)
        task = Task(secrets.token_urlsafe(12), kind, room_id, closing=closing)
        self._tasks[task.task_id] = task
        while len(self._tasks) > REMEMBERED:
            self._tasks.popitem(last=False)
        return task

    async def run(self, task: Task, work: Coroutine[Any, Any, object]) -> None:
        """Do the work of a task, here and now; raises what it raises."""
        try:
            await work
        except MatrixError as error:
            task.status, task.error = "failed", error.message
            raise
        except BaseException:
            task.status, task.error = "failed", "Internal server error"
            raise
        task.status = "complete"

    def start(self, task: Task, work: Coroutine[Any, Any, object]) -> None:
        """Do the work of a task in the background; what it raises is logged."""
        self._background.spawn(f"administration: {task.kind}", self.run(task, work))
