"""A screen of its own for a graphical program, and a person before it who reads, clicks and types.

The person sees pixels and nothing else: what is to be clicked is found by tesseract on a picture of
the screen, and what the program shows counts only once it can be read there. Xvfb is the screen.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 90.0
"""How long anything may take to appear on a busy machine; a reading alone takes some seconds."""
_SCALE = 2
_SHORT = 3
"""Letters: what is so short counts as a word of its own only, or "OK" would stand in many a key."""
_COMMANDS = ("Xvfb", "xdotool", "xclip", "import", "convert", "tesseract", "fc-list")

# How tesseract is shown the picture, and told to look for text (its page segmentation). No single
# way reads everything: texts lie anywhere, and labels of dark buttons look like pictures.
_AS_IT_IS: tuple[str, ...] = ()
_INVERTED = ("-negate", "-threshold", "50%")
_WAYS = ((_AS_IT_IS, 11), (_INVERTED, 6), (_AS_IT_IS, 3), (_INVERTED, 11))


class NotShown(Exception):
    """What was waited for did not appear; the text is what could be read instead."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text on the screen: its words, and the place of each (x and y of its middle)."""

    words: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    def find(self, text: str) -> tuple[int, int] | None:
        """Return the middle of the words that make up `text`, or None."""
        wanted = fold(text)
        words = [fold(word) for word in self.words]
        if len(wanted) <= _SHORT:
            return self.places[words.index(wanted)] if wanted in words else None
        for last in range(len(words)):
            for first in range(last, -1, -1):
                if resembles("".join(words[first : last + 1]), wanted):
                    (left, top), (right, bottom) = self.places[first], self.places[last]
                    return (left + right) // 2, (top + bottom) // 2
        return None


def fold(text: str) -> str:
    """Return the letters and digits of a text, in which two readings of it agree best."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def resembles(text: str, wanted: str) -> bool:
    """Tell whether `wanted` stands in `text`, but for one misread character in ten."""
    # Sellers: row[i] is the least number of edits between wanted[:i] and an ending of the text.
    row = list(range(len(wanted) + 1))
    for character in text:
        diagonal, row[0] = row[0], 0
        for i, expected in enumerate(wanted, 1):
            edited = min(row[i], row[i - 1]) + 1
            diagonal, row[i] = row[i], min(edited, diagonal + (character != expected))
        if row[-1] <= len(wanted) // 10:
            return True
    return False


def missing() -> list[str]:
    """Name what this machine lacks for a screen that reads Chinese."""
    lacking = [command for command in _COMMANDS if shutil.which(command) is None]
    if "tesseract" not in lacking and "chi_sim" not in _output("tesseract", "--list-langs"):
        lacking.append("tesseract's chi_sim")
    if "fc-list" not in lacking and not _output("fc-list", ":lang=zh-cn"):
        lacking.append("a Chinese font")
    return lacking


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


class Screen:
    """One X display."""

    def __init__(self, display: str, folder: Path) -> None:
        self.environment: Mapping[str, str] = {
            **os.environ,
            "DISPLAY": display,
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            # tesseract's threads wait for each other more than they help.
            "OMP_THREAD_LIMIT": "1",
        }
        self._seen = folder / "seen.png"

    # Seeing

    async def photographs(self, file: Path) -> None:
        """Save what is on the screen as PNG."""
        await self._run("import", "-window", "root", "-strip", str(file))

    async def shows(self, *texts: str, within: float = WAIT_S) -> None:
        """Wait until all the texts can be read on one picture, each within one line."""
        await self._reads(texts, within)

    async def finds(self, text: str, within: float = WAIT_S) -> tuple[int, int]:
        """Wait for a text; returns the place of its first occurrence."""
        return (await self._reads((text,), within))[text]

    async def _reads(self, texts: tuple[str, ...], within: float) -> dict[str, tuple[int, int]]:
        end = time.monotonic() + within
        while True:
            places: dict[str, tuple[int, int]] = {}
            read: list[str] = []
            await self.photographs(self._seen)
            for preparation, layout in _WAYS:
                lines = await self._lines(preparation, layout)
                read += [" ".join(line.words) for line in lines]
                for text in set(texts) - set(places):
                    found = (line.find(text) for line in lines)
                    place = next(filter(None, found), None)
                    if place is not None:
                        places[text] = place
                if len(places) == len(set(texts)):
                    return places
            if time.monotonic() > end:
                unseen = " and ".join(sorted(set(texts) - set(places)))
                seen = "\n".join(dict.fromkeys(read))
                raise NotShown(f"{unseen}: not to be read within {within:.0f} s, but:\n{seen}")

    async def _lines(self, preparation: tuple[str, ...], layout: int) -> list[Line]:
        enlarged = self._seen.with_name("enlarged.png")
        grey = ("-colorspace", "Gray", "-filter", "Lanczos", "-resize", f"{_SCALE}00%")
        await self._run("convert", str(self._seen), *grey, *preparation, str(enlarged))
        how = ("-l", "chi_sim+eng", "--psm", str(layout), "tsv")
        return _lines_of(await self._run("tesseract", str(enlarged), "-", *how))

    # Doing

    async def clicks(self, text: str) -> None:
        """Click on a text."""
        await self.clicks_at(*await self.finds(text))

    async def clicks_at(self, x: int, y: int) -> None:
        await self._run("xdotool", "mousemove", str(x), str(y), "click", "1")

    async def moves_pointer(self, x: int, y: int) -> None:
        """Put the pointer where it makes no tooltip appear."""
        await self._run("xdotool", "mousemove", str(x), str(y))

    async def presses(self, *keys: str) -> None:
        await self._run("xdotool", "key", *keys)

    async def types(self, text: str) -> None:
        await self._run("xdotool", "type", "--delay", "20", text)

    async def pastes(self, text: str) -> None:
        """Put a text where the cursor is; unlike typing, this needs no key for each character."""
        await self._run("xclip", "-selection", "clipboard", stdin=text)
        await self.presses("ctrl+v")

    async def _run(self, *command: str, stdin: str = "") -> str:
        # xclip stays behind to serve the clipboard and would keep a pipe open.
        keeps_running = command[0] == "xclip"
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL if keeps_running else asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await process.communicate(stdin.encode())
        assert process.returncode == 0, f"{command[0]} failed: {process.returncode}"
        return (said or b"").decode()


def _lines_of(table: str) -> list[Line]:
    """Read tesseract's table: one word a row, with the numbers of its block, paragraph and line."""
    lines: dict[tuple[str, ...], list[tuple[str, tuple[int, int]]]] = {}
    for row in table.splitlines()[1:]:
        *numbers, text = row.split("\t")
        if text.strip():
            left, top, width, height = (int(number) for number in numbers[6:10])
            place = ((left + width // 2) // _SCALE, (top + height // 2) // _SCALE)
            lines.setdefault(tuple(numbers[1:5]), []).append((text, place))
    return [
        Line(tuple(text for text, _ in words), tuple(place for _, place in words))
        for words in lines.values()
    ]


@asynccontextmanager
async def open_screen(folder: Path, *, width: int, height: int) -> AsyncIterator[Screen]:
    """Start an X server on a display that nobody has; its own temporary files go to `folder`."""
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        "Xvfb",
        *("-displayfd", str(writer), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"),
        pass_fds=[writer],
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as told:
            number = await asyncio.wait_for(asyncio.to_thread(told.readline), WAIT_S)
        assert number, "Xvfb ended without a display"
        yield Screen(f":{number.strip()}", folder)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
