"""Running several programs as one: started, watched, restarted, and stopped together.

Each program is a process of its own. What it writes goes to a log file, so that the terminal
keeps what a person needs to know. A program that ends is started again after a growing delay;
one that ends with `errors.EXIT_STATUS` has said what the administrator must correct, and
starting it again would only repeat that.
"""

import asyncio
import codecs
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

from yizhan_config.errors import EXIT_STATUS
from yizhan_config.health import is_healthy
from yizhan_config.language import say

_LOG_BYTES = 10_000_000
_LOG_FILES = 3
_LAST_WORDS_BYTES = 4096
_HEALTH_PAUSE_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # opened here, since little is safe between fork and exec


@dataclass(frozen=True)
class Program:
    """What to run, what people call it, and the URL that answers 200 once it is of use."""

    name: str
    title_zh: str
    title_en: str
    command: Sequence[str]
    health_url: str

    @property
    def title(self) -> str:
        """Its name in the reader's language."""
        return say(self.title_zh, self.title_en)


class Supervisor:
    """The programs of one machine. Delays and the grace are in seconds.

    `tell` shows a sentence to the person at the terminal.
    """

    def __init__(
        self,
        logs: Path,
        tell: Callable[[str], None],
        *,
        first_delay: float = 1,
        longest_delay: float = 60,
        calm_after: float = 60,
        grace: float = 40,
    ) -> None:
        self._logs = logs
        self._tell = tell
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._calm_after = calm_after
        self._grace = grace
        self.refusal: str | None = None
        """What a program said that the administrator must correct, if that ended everything."""
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()

    def stop(self) -> None:
        """Ask all programs to end; asked again, kill them."""
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether everything is about to end."""
        return self._stopping.is_set()

    async def stopped(self) -> None:
        """Wait until `stop` is called."""
        await self._stopping.wait()

    async def keep(self, program: Program) -> None:
        """Run `program` until `stop`, starting it again whenever it ends.

        When it says that starting again cannot help, everything stops; see `refusal`.
        """
        delay = self._first_delay
        while not self.stopping:
            started = time.monotonic()
            status, last_words = await self._run_once(program)
            if self.stopping:
                return
            if status == EXIT_STATUS:
                self.refusal = _last_line(last_words)
                self.stop()
                return
            if time.monotonic() - started >= self._calm_after:
                delay = self._first_delay
            self._tell_of_end(program, status, last_words, delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(delay * 2, self._longest_delay)

    async def healthy(self, program: Program, *, within: float) -> bool:
        """Wait until `program` answers; False after `within` seconds or when all is to stop."""
        deadline = time.monotonic() + within
        while not self.stopping and time.monotonic() < deadline:
            if await asyncio.to_thread(is_healthy, program.health_url):
                return True
            await asyncio.sleep(_HEALTH_PAUSE_SECONDS)
        return False

    def log_of(self, program: Program) -> Path:
        """Where the program's output is kept."""
        return self._logs / f"{program.name}.log"

    async def _run_once(self, program: Program) -> tuple[int, str]:
        parent = os.getpid()
        process = await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C goes to the terminal's whole process group. In a session of its own a
            # program hears of the end from us alone, once, in order.
            start_new_session=True,
            preexec_fn=lambda: _die_with(parent),
        )
        assert process.stdout is not None
        try:
            async with asyncio.TaskGroup() as group:
                ending = group.create_task(self._end_in_time(process))
                last_words = await _keep_output(process.stdout, self.log_of(program))
                status = await process.wait()
                ending.cancel()
            return status, last_words
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _end_in_time(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._at_once.wait(), self._grace)
            process.kill()

    def _tell_of_end(self, program: Program, status: int, last_words: str, delay: float) -> None:
        if status < 0:
            how_zh = how_en = signal.Signals(-status).name
        else:
            how_zh, how_en = f"状态 {status}", f"status {status}"
        log = self.log_of(program)
        self._tell(
            say(
                f"{program.title}意外退出（{how_zh}），{delay:g} 秒后重新启动；详见 {log}",
                f"The {program.title} ended unexpectedly ({how_en}) and starts again in "
                f"{delay:g} s; see {log}",
            )
        )
        if line := _last_line(last_words):
            self._tell(f"  {line}")


async def _keep_output(stream: asyncio.StreamReader, path: Path) -> str:
    """Append what a program writes to its log, which is bounded, and return the end of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8"
    )
    handler.terminator = ""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    last_words = ""
    try:
        while chunk := await stream.read(65536):
            text = decoder.decode(chunk)
            handler.emit(logging.makeLogRecord({"msg": text}))
            last_words = (last_words + text)[-_LAST_WORDS_BYTES:]
    finally:
        handler.close()
    return last_words


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _die_with(parent: int) -> None:
    """In the new process: end when the supervisor does, even if it is killed.

    Otherwise the programs would go on alone, and the next start would find its ports taken.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
