"""Thumbnails: which one is meant, whether it is there, and having it made once.

Every request is rounded up to one of a few sizes, so that nobody fills the disk by asking for
every size there is. Larger ones than these get the picture itself.

Spec: client-server API, "Thumbnails".
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from yizhan_server.media import files
from yizhan_server.media.files import FileStore
from yizhan_server.media.repository import ContentRepository, Media
from yizhan_server.protocol.errors import LimitExceeded, MatrixError, TooLarge

log = logging.getLogger(__name__)

Method = Literal["crop", "scale"]
Size = tuple[int, int]

# The specification's sizes; 1600x1200 for screens with two pixels to the point, and larger
# crops for pictures of people in the square and the 4:3 shape, which no scaling can stand in for.
SCALED: tuple[Size, ...] = ((320, 240), (640, 480), (800, 600), (1600, 1200))
CROPPED: tuple[Size, ...] = (
    (32, 32), (96, 96), (320, 320), (640, 640), (320, 240), (640, 480), (800, 600),
)  # fmt: skip

SOURCE_TYPES = frozenset(
    ("image/png", "image/apng", "image/jpeg", "image/jpg", "image/gif", "image/webp")
)
MADE_TYPES = {
    "png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
}  # fmt: skip

AT_ONCE = 2
MOST_WAITING = 100
SECONDS = 60
"""For one thumbnail, whatever the reason; its processor time is limited more narrowly."""

# Exit codes of `resizing`, which is not imported here: the homeserver loads no decoder.
_TOO_LARGE = 4

_REMEMBERED_FAILURES = 1000


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the thumbnails that a picture may have; no box: the picture's own size."""

    box: Size | None
    method: Method
    animated: bool

    @property
    def name(self) -> str:
        """The name of its file, and of its entity tag, without extension."""
        size = "full" if self.box is None else f"{self.box[0]}x{self.box[1]}"
        return f"{size}-{self.method}{'-animated' if self.animated else ''}"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture on the disk."""

    path: Path
    content_type: str
    tag: str
    """Changes when the bytes may."""


def choose_variant(width: int, height: int, method: Method, *, animated: bool) -> Variant:
    """Round a wish up to a size that is made: of the nearest shape when it is to be cropped."""
    boxes = [
        box
        for box in (CROPPED if method == "crop" else SCALED)
        if box[0] >= width and box[1] >= height
    ]
    if not boxes:
        return Variant(None, "scale", animated)
    if method == "scale":
        return Variant(boxes[0], method, animated)

    def unlikeness(box: Size) -> tuple[float, int]:
        # How far the shapes differ, the same for wide and tall; then the smaller one.
        ratio = (box[0] * height) / (box[1] * width)
        return max(ratio, 1 / ratio), box[0] * box[1]

    return Variant(min(boxes, key=unlikeness), method, animated)


class Thumbnails:
    """Small versions of pictures, made when first asked for."""

    def __init__(self, repository: ContentRepository, store: FileStore, max_pixels: int) -> None:
        self._repository = repository
        self._store = store
        self._max_pixels = max_pixels
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Files of which no thumbnail can be made, so that asking again costs nothing.
        self._failures: dict[bytes, int] = {}

    async def get(self, media: Media, variant: Variant) -> Thumbnail:
        """Return a thumbnail, made now if need be.

        400 M_UNKNOWN when the file is no picture that we read; 413 M_TOO_LARGE above the limit
        of pixels.
        """
        if media.content_type.partition(";")[0].strip().lower() not in SOURCE_TYPES:
            raise _not_a_picture()
        self._check_not_failed(media.digest)
        folder = self._store.thumbnails_of(media.digest)
        tag = f"{media.digest.hex()}-{variant.name}"
        found = await self._repository.on_disk(_find, folder, variant.name)
        if found is None:
            # Whoever asks for the same one meanwhile waits here, and then finds it.
            async with self._locks.setdefault(tag, asyncio.Lock()):
                found = await self._repository.on_disk(_find, folder, variant.name)
                if found is None:
                    self._check_not_failed(media.digest)
                    found = await self._make(media, variant, folder)
        return Thumbnail(found, MADE_TYPES[found.suffix[1:]], tag)

    async def _make(self, media: Media, variant: Variant, folder: Path) -> Path:
        if self._waiting >= MOST_WAITING:
            raise LimitExceeded(2000, "Too many thumbnails are being made")
        self._waiting += 1
        try:
            async with self._slots:
                return await self._resize(media, variant, folder)
        finally:
            self._waiting -= 1

    async def _resize(self, media: Media, variant: Variant, folder: Path) -> Path:
        target = self._store.new_path()
        width, height = variant.box or (0, 0)
        try:
            code, output = await _run(
                "yizhan_server.media.resizing", str(media.path), str(target),
                str(width), str(height), variant.method,
                "true" if variant.animated else "false", str(self._max_pixels),
            )  # fmt: skip
            if code == 0 and output in MADE_TYPES:
                return await self._repository.on_disk(
                    _put, target, folder, f"{variant.name}.{output}"
                )
        finally:
            await self._repository.on_disk(_remove, target)
        log.info("no thumbnail can be made", extra={"exit_code": code, "reason": output[:100]})
        if len(self._failures) >= _REMEMBERED_FAILURES:
            del self._failures[next(iter(self._failures))]
        self._failures[media.digest] = code
        raise _refusal(code)

    def _check_not_failed(self, digest: bytes) -> None:
        code = self._failures.get(digest)
        if code is not None:
            raise _refusal(code)


def _refusal(code: int) -> MatrixError:
    """Return the answer to an exit code of `resizing`."""
    if code == _TOO_LARGE:
        return TooLarge("Content is too large to thumbnail")
    return _not_a_picture()


def _not_a_picture() -> MatrixError:
    return MatrixError(400, "M_UNKNOWN", "Cannot generate thumbnails for the requested content")


async def _run(module: str, *arguments: str) -> tuple[int, str]:
    """Run a module as a process; returns its exit code, negative when it was killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module, *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        return -1, "timeout"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode("ascii", "replace")


def _find(folder: Path, name: str) -> Path | None:
    for extension in MADE_TYPES:
        path = folder / f"{name}.{extension}"
        if path.exists():
            return path
    return None


def _put(made: Path, folder: Path, name: str) -> Path:
    files.make_folder(folder)
    return made.rename(folder / name)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
