"""Thumbnails, of pictures that are what they say and of those that are not.

On one kind of database only: nothing here is in it.
"""

from __future__ import annotations

import asyncio
import io
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageOps, ImageStat

from yizhan_server.media.resizing import fit
from yizhan_server.media.thumbnails import choose_variant
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.media import (
    downloads,
    encoded,
    fetches,
    gradient,
    stored_files,
    thumbnail,
    uploads,
)

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect


@pytest.fixture
def dialect() -> Dialect:
    return "sqlite"


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size; its data would be just as large, were it read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(50_000_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


async def test_a_thumbnail_shows_the_whole_picture_or_fills_the_box(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    mxc = await uploads(alice, encoded(gradient(2000, 1000)), "image/png")

    scaled = await thumbnail(alice, mxc, 300, 200)
    assert scaled.picture.size == (320, 160)
    assert scaled.headers["Content-Type"] == "image/jpeg"
    assert scaled.headers["Content-Disposition"] == 'inline; filename="thumbnail.jpeg"'
    assert scaled.headers["X-Content-Type-Options"] == "nosniff"

    cropped = (await thumbnail(alice, mxc, 50, 50, method="crop")).picture.convert("RGB")
    assert cropped.size == (96, 96)
    # Only the middle half of the width is left.
    assert abs(_at(cropped, 0.01, 0.5)[0] - 64) < 12
    assert abs(_at(cropped, 0.99, 0.5)[0] - 191) < 12

    assert len(stored_files(homeserver, "thumbnails")) == 2
    held = await fetches(
        alice, f"client/v1/media/thumbnail/{mxc}", width="300", height="200",
        headers={"If-None-Match": scaled.headers["ETag"]},
    )  # fmt: skip
    assert held.status == 304


async def test_a_thumbnail_is_made_once(homeserver: HomeserverInProcess, alice: Person) -> None:
    mxc = await uploads(alice, encoded(gradient(1000, 1000)), "image/png")

    answers = await asyncio.gather(
        *(thumbnail(alice, mxc, 32, 32, method="crop") for _ in range(8))
    )

    assert len({answer.data for answer in answers}) == 1
    (made,) = stored_files(homeserver, "thumbnails")
    before = made.stat().st_mtime_ns
    assert (await thumbnail(alice, mxc, 20, 31, method="crop")).data == answers[0].data
    (again,) = stored_files(homeserver, "thumbnails")
    assert again.stat().st_mtime_ns == before


async def test_a_thumbnail_is_gone_on_with_where_it_broke_off(alice: Person) -> None:
    mxc = await uploads(alice, encoded(gradient(600, 400)), "image/png")
    whole = await thumbnail(alice, mxc, 300, 200)
    rest = await thumbnail(
        alice, mxc, 300, 200, headers={"Range": "bytes=50-", "If-Range": whole.headers["ETag"]}
    )
    assert (rest.status, rest.data) == (206, whole.data[50:])
    assert rest.headers["Content-Range"] == f"bytes 50-{len(whole.data) - 1}/{len(whole.data)}"
    beyond = await thumbnail(alice, mxc, 300, 200, headers={"Range": f"bytes={len(whole.data)}-"})
    assert beyond.status == 416


async def test_nothing_is_made_larger(alice: Person) -> None:
    data = encoded(gradient(60, 40))
    mxc = await uploads(alice, data, "image/png")

    for method in ("scale", "crop"):
        answer = await thumbnail(alice, mxc, 800, 600, method=method)
        assert (answer.status, answer.data) == (200, data)
        assert answer.headers["Content-Type"] == "image/png"

    narrow = await uploads(alice, encoded(gradient(50, 500)), "image/png")
    assert (await thumbnail(alice, narrow, 96, 96, method="crop")).picture.size == (50, 50)
    large = await uploads(alice, encoded(gradient(2500, 2000)), "image/png")
    assert (await thumbnail(alice, large, 2000, 2000)).picture.size == (2500, 2000)


async def test_the_type_of_a_thumbnail_is_what_it_is(alice: Person) -> None:
    """Nobody gets a page served as a picture, or a picture under a name of the uploader's."""
    mxc = await uploads(alice, encoded(gradient(20, 20), "WEBP"), "image/png")
    assert (await thumbnail(alice, mxc, 32, 32)).headers["Content-Type"] == "image/webp"

    page = await uploads(alice, b"<html><script>alert(1)</script>", "image/png")
    assert (await thumbnail(alice, page, 32, 32)).status == 400


async def test_transparency_survives(alice: Person) -> None:
    image = Image.new("RGBA", (500, 500), (255, 0, 0, 0))
    mxc = await uploads(alice, encoded(image), "image/png")
    palette = await uploads(alice, encoded(image.convert("P"), "GIF", transparency=0), "image/gif")

    for source in (mxc, palette):
        made = (await thumbnail(alice, source, 96, 96, method="crop")).picture
        assert made.format == "PNG"
        assert _at(made.convert("RGBA"), 0.5, 0.5)[3] == 0


async def test_png_of_every_kind_has_a_thumbnail_that_looks_like_it(alice: Person) -> None:
    source = gradient(300, 200).convert("L")
    # Sixteen bits a pixel: the same grey in the upper eight.
    deep = Image.frombytes("I;16", source.size, b"".join(bytes((0, v)) for v in source.tobytes()))
    for image in (source.convert("1"), deep, *map(source.convert, ("L", "LA", "P", "RGB", "RGBA"))):
        mxc = await uploads(alice, encoded(image), "image/png")
        made = (await thumbnail(alice, mxc, 96, 96, method="crop")).picture
        assert made.size == (96, 96)
        brightness = ImageStat.Stat(made.convert("L")).mean[0]
        assert abs(brightness - ImageStat.Stat(source).mean[0]) < 12, image.mode


async def test_a_photograph_stands_upright_and_tells_nothing(alice: Person) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "Camera of Alice"
        photograph = encoded(
            gradient(1600, 1000), "JPEG", exif=exif, comment=b"at home", quality=95
        )
        mxc = await uploads(alice, photograph, "image/jpeg")

        answer = await thumbnail(alice, mxc, 320, 240)

        made = answer.picture
        assert made.size == ((320, 200) if orientation < 5 else (150, 240))
        assert made.format == "JPEG"
        # What a viewer shows: the same turns, made by Pillow from the tag.
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(photograph)))
        for across, down in ((0.1, 0.1), (0.9, 0.1), (0.1, 0.9)):
            assert _unlikeness(_at(made, across, down), _at(shown, across, down)) < 10
        assert not made.getexif()
        assert b"Alice" not in answer.data
        assert b"at home" not in answer.data


def _at(image: Image.Image, across: float, down: float) -> tuple[int, ...]:
    value = image.getpixel((int(image.width * across), int(image.height * down)))
    assert isinstance(value, tuple)
    return value


def _unlikeness(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


async def test_a_moving_picture_moves_only_when_asked_to(alice: Person) -> None:
    frames = [Image.new("RGB", (300, 300), (n * 60, 0, 0)) for n in range(4)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=70)
        mxc = await uploads(alice, data, f"image/{kind.lower()}")

        still = (await thumbnail(alice, mxc, 96, 96, method="crop")).picture
        assert getattr(still, "n_frames", 1) == 1
        moving = (await thumbnail(alice, mxc, 96, 96, method="crop", animated="true")).picture
        assert (moving.format, moving.size) == ("WEBP", (96, 96))
        assert getattr(moving, "n_frames", 1) == 4
        whole = await thumbnail(alice, mxc, 640, 480, animated="false")
        assert getattr(whole.picture, "n_frames", 1) == 1
        assert (await thumbnail(alice, mxc, 640, 480, animated="true")).data == data

    jpeg = await uploads(alice, encoded(gradient(300, 300), "JPEG"), "image/jpeg")
    assert (await thumbnail(alice, jpeg, 96, 96, animated="true")).picture.format == "JPEG"


def webp_of_size(width: int, height: int) -> bytes:
    small = encoded(
        Image.new("RGBA", (2, 2)), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"
    )
    assert small[12:16] == b"VP8X"
    claimed = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return small[:24] + claimed + small[30:]


async def test_pictures_of_too_many_pixels_are_refused_unread(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    gif = bytearray(encoded(Image.new("P", (2, 2)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    jpeg = bytearray(encoded(gradient(16, 16), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)
    bombs = {
        "png": png_of_size(20_000, 20_000),
        "gif": bytes(gif),
        "jpeg": bytes(jpeg),
        "webp": webp_of_size(16_000, 16_000),
    }

    for kind, data in bombs.items():
        mxc = await uploads(alice, data, f"image/{kind}")
        for _ in range(2):
            answer = await thumbnail(alice, mxc, 96, 96, method="crop")
            assert (answer.status, b"M_TOO_LARGE" in answer.data) == (413, True), kind
        assert (await downloads(alice, mxc)).data == data
    assert stored_files(homeserver, "thumbnails") == stored_files(homeserver, "incoming") == []


async def test_the_limit_of_pixels_is_exact(tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"media.max_image_pixels": 40_001}
    async with homeserver_in_process(tmp_path, **overrides) as server:
        alice = await server.person("alice")
        within = await uploads(alice, encoded(gradient(200, 200)), "image/png")
        beyond = await uploads(alice, encoded(gradient(202, 200)), "image/png")
        assert (await thumbnail(alice, within, 96, 96, method="crop")).status == 200
        assert (await thumbnail(alice, beyond, 96, 96, method="crop")).status == 413


async def test_broken_pictures_are_answered_like_any_other_file(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    png, jpeg = encoded(gradient(300, 300)), encoded(gradient(300, 300), "JPEG")
    webp, gif = encoded(gradient(300, 300), "WEBP"), encoded(gradient(300, 300), "GIF")
    generator = random.Random(3)
    broken = [
        b"",
        b"\x89PNG\r\n\x1a\n",
        png[:100],
        jpeg[:200],
        webp[:40],
        gif[:60],
        generator.randbytes(5000),
    ]
    for data in (png, jpeg, webp, gif):
        noisy = bytearray(data)
        for _ in range(40):
            noisy[generator.randrange(20, len(noisy))] = generator.randrange(256)
        broken.append(bytes(noisy))
    # Formats that Pillow reads, and we do not.
    broken += [encoded(gradient(300, 300), kind) for kind in ("BMP", "TIFF", "PPM", "ICO", "PDF")]

    for data in broken:
        mxc = await uploads(alice, data, "image/png")
        answer = await thumbnail(alice, mxc, 96, 96, method="crop")
        assert answer.status in (200, 400), data[:20]
        if answer.status == 400:
            assert b"M_UNKNOWN" in answer.data
    assert stored_files(homeserver, "incoming") == []


async def test_an_animation_without_end_becomes_a_still_picture(alice: Person) -> None:
    frames = [Image.new("P", (100, 100), n % 2) for n in range(301)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    mxc = await uploads(alice, data, "image/gif")

    answer = await thumbnail(alice, mxc, 96, 96, method="crop", animated="true")

    assert getattr(answer.picture, "n_frames", 1) == 1


async def test_encrypted_files_have_no_thumbnail(alice: Person) -> None:
    mxc = await uploads(alice, encoded(gradient(300, 300)), "application/octet-stream")

    answer = await thumbnail(alice, mxc, 96, 96)

    assert (answer.status, b"M_UNKNOWN" in answer.data) == (400, True)


async def test_a_request_that_makes_no_sense_is_refused(alice: Person) -> None:
    mxc = await uploads(alice, encoded(gradient(300, 300)), "image/png")
    wishes: list[dict[str, Any]] = [
        {}, {"width": "32"}, {"height": "32"}, {"width": "0", "height": "32"},
        {"width": "-1", "height": "32"}, {"width": "1.5", "height": "32"},
        {"width": "9" * 40, "height": "32"}, {"width": "三", "height": "32"},
        {"width": "32", "height": "32", "method": "explode"},
        {"width": "32", "height": "32", "animated": "perhaps"},
    ]  # fmt: skip

    for wish in wishes:
        answer = await fetches(alice, f"client/v1/media/thumbnail/{mxc}", **wish)
        assert answer.status == 400, wish


def test_wishes_are_rounded_up_to_few_sizes() -> None:
    assert choose_variant(1, 1, "crop", animated=False).box == (32, 32)
    assert choose_variant(33, 40, "crop", animated=False).box == (96, 96)
    assert choose_variant(97, 97, "crop", animated=False).box == (320, 320)
    assert choose_variant(300, 200, "crop", animated=False).box == (320, 240)
    assert choose_variant(32, 32, "scale", animated=False).box == (320, 240)
    assert choose_variant(200, 400, "scale", animated=False).box == (640, 480)
    assert choose_variant(801, 600, "scale", animated=False).box == (1600, 1200)
    assert choose_variant(5000, 1, "scale", animated=False).box is None
    assert choose_variant(700, 700, "crop", animated=False).box is None

    wishes = [
        choose_variant(w, h, method, animated=False)
        for method in ("crop", "scale")
        for w in range(1, 2000, 37)
        for h in range(1, 2000, 37)
    ]
    assert len(set(wishes)) <= 12


def test_a_thumbnail_is_never_larger_than_its_box_or_its_picture() -> None:
    generator = random.Random(8)
    for _ in range(2000):
        size = generator.randint(1, 3000), generator.randint(1, 3000)
        box = generator.choice([(32, 32), (96, 96), (320, 240), (800, 600)])
        for crop in (True, False):
            made, (left, top, right, bottom) = fit(size, box, crop=crop)
            assert 1 <= made[0] <= min(size[0], box[0])
            assert 1 <= made[1] <= min(size[1], box[1])
            assert -1e-6 <= left < right <= size[0] + 1e-6
            assert -1e-6 <= top < bottom <= size[1] + 1e-6
