"""Files and pictures as people send and fetch them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from aiohttp import web
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from yizhan_testing.homeserver import HomeserverInProcess, Person


class Answer:
    """What a download gave."""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data

    @property
    def picture(self) -> Image.Image:
        assert self.status == 200, self.data
        return Image.open(io.BytesIO(self.data))


async def uploads(
    person: Person, data: bytes, content_type: str = "application/octet-stream", **params: str
) -> str:
    """Upload a file and return what follows `mxc://`."""
    answer = await person.call(
        "POST", "/_matrix/media/v3/upload", data=data, params=params,
        headers={"Content-Type": content_type},
    )  # fmt: skip
    uri: str = answer["content_uri"]
    assert uri.startswith("mxc://")
    return uri.removeprefix("mxc://")


async def fetches(
    person: Person,
    path: str,
    *,
    verb: str = "GET",
    token: bool = True,
    headers: Mapping[str, str] | None = None,
    **params: Any,
) -> Answer:
    """Call an endpoint that answers with a file."""
    authorization = {"Authorization": f"Bearer {person.token}"} if token else {}
    async with person.http.request(
        verb, f"{person.base_url}/_matrix/{path}", params=params,
        headers={**authorization, **(headers or {})},
    ) as response:  # fmt: skip
        return Answer(response.status, response.headers, await response.read())


async def downloads(person: Person, mxc: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await fetches(person, f"client/v1/media/download/{mxc}", headers=named)


async def thumbnail(person: Person, mxc: str, width: int, height: int, **params: Any) -> Answer:
    return await fetches(
        person, f"client/v1/media/thumbnail/{mxc}", width=str(width), height=str(height), **params
    )


def file_of(data: bytes, headers: str = "Content-Type: text/plain") -> web.Response:
    """Return a file as a server sends it to another."""
    body = (
        b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n"
        + headers.encode() + b"\r\n\r\n" + data + b"\r\n--b--\r\n"
    )  # fmt: skip
    return web.Response(body=body, headers={"Content-Type": "multipart/mixed; boundary=b"})


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: every part of it can be told from the others."""
    across = Image.linear_gradient("L").rotate(90).resize((width, height))
    down = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (across, down, Image.new("L", (width, height))))


def stored_files(homeserver: HomeserverInProcess, kind: str = "files") -> list[Path]:
    folder = homeserver.parts.services.media._store._files.parent
    return [path for path in (folder / kind).rglob("*") if path.is_file()]
