"""Makes one thumbnail, as a program of its own: `python -m yizhan_server.media.resizing`.

Decoders of pictures are where hostile files do their harm. So a picture is decoded in a process
that makes this one thumbnail and ends: its memory and time are limited by the kernel, a crash is
an answer like any other, its memory is given back, and the homeserver never loads a decoder.

Arguments: SOURCE TARGET WIDTH HEIGHT METHOD ANIMATED MAX_PIXELS; a WIDTH of 0 means any size.
Writes TARGET and prints its format (`png`, `jpeg`, `webp`, `gif`), or ends with one of the codes
below. A picture that needs no change becomes TARGET as it is (a hard link).

Spec: client-server API, "Thumbnails".
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.Image import Resampling, Transpose

UNSUPPORTED = 3
"""Not a picture that we read, or a broken one."""
TOO_LARGE = 4
"""More pixels than allowed."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")

CPU_SECONDS = 20
OTHER_MEMORY = 512 << 20
"""Bytes of address space beside pixels: the interpreter, libraries, and the file itself."""
BYTES_PER_PIXEL = 16
"""RGBA as decoded, with its alpha multiplied in, and room for one more step."""
MAX_OUTPUT = 64 << 20

MAX_FRAMES = 300
MAX_OUTPUT_PIXELS = 24_000_000
"""Of all frames of an animation together; beyond either, the first frame has to do."""

# EXIF's "orientation": what turns the stored picture upright. From 5 on, sides change places.
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

Size = tuple[int, int]
Region = tuple[float, float, float, float]


def limit_resources(max_pixels: int) -> None:
    """Have the kernel end this process when a file makes it do too much."""
    memory = OTHER_MEMORY + BYTES_PER_PIXEL * max_pixels
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, MAX_OUTPUT),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    os.nice(10)
    # When the machine itself runs out of memory: this process first, not the homeserver.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def fit(size: Size, box: Size, *, crop: bool) -> tuple[Size, Region]:
    """Return the size of a thumbnail, and the part of the picture that it shows.

    Never larger than the picture. "scale" fits into the box; "crop" fills it, or what has its
    shape in a picture that is smaller.
    """
    (width, height), (box_width, box_height) = size, box
    if not crop:
        scale = min(1.0, box_width / width, box_height / height)
        return (max(1, round(width * scale)), max(1, round(height * scale))), (0, 0, width, height)
    shown_width = min(width, height * box_width / box_height)
    shown_height = min(height, width * box_height / box_width)
    left, top = (width - shown_width) / 2, (height - shown_height) / 2
    made = (
        max(1, min(box_width, round(shown_width))),
        max(1, min(box_height, round(shown_height))),
    )
    return made, (left, top, left + shown_width, top + shown_height)


def make_thumbnail(
    source: Path, target: Path, box: Size | None, *, crop: bool, animated: bool, max_pixels: int
) -> str:
    """Write a thumbnail and return its format in lower case.

    `Image.DecompressionBombError` above `max_pixels`, from the header alone. Broken files raise
    almost anything.
    """
    # Pillow refuses above twice this number, before it decodes, and warns above it.
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with Image.open(source, formats=FORMATS) as image:
        moving = image.format in ("PNG", "GIF", "WEBP") and getattr(image, "is_animated", False)
        transpose = _UPRIGHT.get(_orientation(image))
        if box is None:
            box = image.size
        elif transpose in (
            Transpose.TRANSPOSE,
            Transpose.ROTATE_270,
            Transpose.TRANSVERSE,
            Transpose.ROTATE_90,
        ):
            box = (box[1], box[0])
        if image.width <= box[0] and image.height <= box[1] and (animated or not moving):
            image.load()  # only what can be decoded is passed on as a picture
            _link(source, target)
            return "jpeg" if image.format in ("JPEG", "MPO") else str(image.format).lower()
        made, region = fit(image.size, box, crop=crop)
        frames = getattr(image, "n_frames", 1) if moving and animated else 1
        if 1 < frames <= MAX_FRAMES and frames * made[0] * made[1] <= MAX_OUTPUT_PIXELS:
            return _write_animation(image, target, made, region, frames)
        return _write_still(image, target, made, region, transpose)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001 - broken metadata is no reason to refuse the picture
        return 1


def _write_still(
    image: Image.Image, target: Path, made: Size, region: Region, transpose: Transpose | None
) -> str:
    if image.format in ("JPEG", "MPO"):
        # Has the decoder skip what is not needed: at least twice the size of the result.
        whole = image.size
        shrink = min((region[2] - region[0]) / made[0], (region[3] - region[1]) / made[1])
        image.draft("RGB", (int(whole[0] / shrink * 2), int(whole[1] / shrink * 2)))
        across, down = image.width / whole[0], image.height / whole[1]
        region = (region[0] * across, region[1] * down, region[2] * across, region[3] * down)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    has_alpha = image.has_transparency_data
    small = _resized(image, "RGBA" if has_alpha else "RGB", made, region)
    if transpose is not None:
        small = small.transpose(transpose)
    # What is saved is only what stands here: no EXIF, no comments, no XMP.
    small.info.clear()
    with target.open("xb") as file:
        if has_alpha:
            small.save(file, "PNG", optimize=True, icc_profile=profile)
        else:
            small.save(file, "JPEG", quality=85, optimize=True, icc_profile=profile)
        _sync(file)
    return "png" if has_alpha else "jpeg"


def _write_animation(
    image: Image.Image, target: Path, made: Size, region: Region, frames: int
) -> str:
    pictures: list[Image.Image] = []
    durations: list[int] = []
    for number in range(frames):
        image.seek(number)
        pictures.append(_resized(image, "RGBA", made, region))
        durations.append(int(image.info.get("duration") or 100))
    with target.open("xb") as file:
        pictures[0].save(
            file, "WEBP", save_all=True, append_images=pictures[1:], duration=durations,
            loop=int(image.info.get("loop") or 0), quality=75, method=2,
        )  # fmt: skip
        _sync(file)
    return "webp"


def _resized(image: Image.Image, mode: str, made: Size, region: Region) -> Image.Image:
    if image.mode.startswith("I"):
        # Sixteen bits of grey, which converting alone would cut off at 255.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    picture = image.convert(mode) if image.mode != mode else image
    left, top, right, bottom = region
    region = (left, top, min(right, picture.width), min(bottom, picture.height))
    return picture.resize(made, Resampling.LANCZOS, box=region, reducing_gap=2.0)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def main(arguments: Sequence[str]) -> int:
    """Make the thumbnail that the arguments describe; returns the exit code."""
    source, target, width, height, method, animated, max_pixels = arguments
    limit_resources(int(max_pixels))
    try:
        made = make_thumbnail(
            Path(source),
            Path(target),
            None if width == "0" else (int(width), int(height)),
            crop=method == "crop",
            animated=animated == "true",
            max_pixels=int(max_pixels),
        )
    except Image.DecompressionBombError:
        return TOO_LARGE
    except Exception as error:  # noqa: BLE001 - whatever a broken file does to a decoder
        sys.stderr.write(type(error).__name__)
        return UNSUPPORTED
    sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
