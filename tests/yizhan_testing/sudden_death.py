"""The homeserver as a process that dies, as by a power cut, at a point of its work.

    server = MortalHomeserver(folder, url, [ANSWERED])
    server.dies(ANSWERED)
    ...                          # whatever leads there
    await server.has_died()
    await server.resumes()

Run as a program, it is the homeserver with the functions of the points wrapped: nothing in the
product knows of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from yizhan_testing.homeserver import Homeserver

WITHIN_S = 30

_POINTS, _CHOSEN, _PATCH = "points.json", "dies-at.json", "patch.py"


@dataclass(frozen=True)
class Point:
    """A call at which the process dies: before its first statement, or once it has ended."""

    name: str
    when: Literal["before", "after"]
    where: str
    """`module:function` or `module:class.method`, without the name of the product's package."""
    call: int = 1
    """Which of the calls after the point was chosen."""


@contextlib.contextmanager
def noted(point: Point) -> Iterator[None]:
    """Say of what goes wrong in the block after which death it did."""
    try:
        yield
    except Exception as error:
        error.add_note(f"after a death when {point.name}")
        raise


class MortalHomeserver(Homeserver):
    """The program as a process of its own that can be told where to die."""

    program: ClassVar[tuple[str, ...]] = ("-m", "yizhan_testing.sudden_death")

    def __init__(
        self, folder: Path, database_url: str, points: Iterable[Point], patch: str = ""
    ) -> None:
        """`patch` is Python that breaks the build on purpose, before it starts."""
        super().__init__(folder)
        self.database_url = database_url
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _POINTS).write_text(json.dumps(sorted({point.where for point in points})))
        (folder / _PATCH).write_text(patch)

    def dies(self, point: Point) -> None:
        """Have the process die at `point`; it may run already or be started after this."""
        chosen = self.folder / _CHOSEN
        chosen.with_suffix(".new").write_text(json.dumps(asdict(point)))
        chosen.with_suffix(".new").replace(chosen)

    async def has_died(self) -> None:
        """Wait until the process is dead by its own hand; nothing is chosen from then on."""
        assert self.process is not None, "it runs"
        async with asyncio.timeout(WITHIN_S):
            assert await self.process.wait() == -signal.SIGKILL
        (self.folder / _CHOSEN).unlink()
        await self._end(signal.SIGKILL)


def _mortal(where: str, function: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return the function, which ends the process if it is the chosen point."""
    calls = dict.fromkeys(("before", "after"), 0)

    def passes(when: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            chosen = json.loads((folder / _CHOSEN).read_text())
            if (chosen["where"], chosen["when"]) == (where, when):
                calls[when] += 1
                if calls[when] == chosen["call"]:
                    os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        passes("before")
        result = await function(*args, **kwargs)
        passes("after")
        return result

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        passes("before")
        result = function(*args, **kwargs)
        passes("after")
        return result

    return awaited if inspect.iscoroutinefunction(function) else called


def _main() -> None:
    folder = Path(sys.argv[sys.argv.index("--data") + 1])
    for where in json.loads((folder / _POINTS).read_text()):
        module, _, names = where.partition(":")
        owner: Any = importlib.import_module(f"yizhan_server.{module}")
        *classes, name = names.split(".")
        for each in classes:
            owner = getattr(owner, each)
        setattr(owner, name, _mortal(where, getattr(owner, name), folder))
    exec(compile((folder / _PATCH).read_text(), _PATCH, "exec"), {})
    sys.argv[0] = "yizhan_server"
    runpy.run_module("yizhan_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
