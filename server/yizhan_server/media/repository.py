"""Uploads, ids handed out for later uploads, and finding what an id names.

The file is in place before the commit that names it, and that commit is durable before the
answer. Reference counts are written in the same commit as the rows that they count.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.clock import Clock
from yizhan_server.media.files import FileStore, IncomingFile, KeptFile
from yizhan_server.media.placing import Placing
from yizhan_server.protocol.errors import Forbidden, LimitExceeded, MatrixError, NotFound, TooLarge
from yizhan_server.storage import media as storage

log = logging.getLogger(__name__)

T = TypeVar("T")

RESERVATION_LIFETIME_MS = 24 * 60 * 60 * 1000
MAX_OPEN_RESERVATIONS = 20
"""Of one user: ids handed out to which nothing has been uploaded."""

MAX_FILE_NAME = 1024
"""Characters."""

BLOCK = 1 << 18
"""Bytes that are collected before a thread is bothered to write them."""

THREADS = 8
"""For files; each waits for a disk, not for a processor."""

BATCH = 100
"""Files that are removed before uploads get their turn."""
TIDY_EVERY_S = 3600

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
_CONTENT_TYPE = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,127}/[!#$%&'*+.^_`|~0-9A-Za-z-]{1,127}(?: ?;[ -~]{0,200})?"
)
# Control characters break headers; those that turn the direction of writing make `gpj.exe` look
# like `exe.jpg`.
_UNSAFE_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Media:
    """A file that may be read."""

    digest: bytes
    path: Path
    content_type: str
    file_name: str | None


def content_type_of(header: str | None) -> str:
    """Return the type that an upload claims; what is no media type is unknown."""
    if header is None or _CONTENT_TYPE.fullmatch(header) is None:
        return UNKNOWN_TYPE
    return header


def clean_file_name(name: str | None) -> str | None:
    """Return a name that is safe in a header and on a screen; None for an empty one."""
    if not name:
        return None
    if len(name) > MAX_FILE_NAME:
        raise MatrixError(
            400, "M_INVALID_PARAM", f"The file name is longer than {MAX_FILE_NAME} characters"
        )
    return _UNSAFE_IN_NAMES.sub("_", name)


def is_media_id(media_id: str) -> bool:
    """Whether this can be the id of a file, of whatever server."""
    return _MEDIA_ID.fullmatch(media_id) is not None


class ContentRepository:
    """The files of this server's users."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        store: FileStore,
        server_name: str,
        *,
        max_upload_bytes: int,
        is_public: bool,
    ) -> None:
        self._db = db
        self._clock = clock
        self._store = store
        self._server_name = server_name
        self.max_upload_bytes = max_upload_bytes
        self.is_public = is_public
        """Whether files may be read without an account."""
        self._threads = ThreadPoolExecutor(THREADS, "media")
        self._placing = Placing()
        # Downloads that wait for an upload keep their event alive; nobody else does.
        self._uploaded: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def prepare(self) -> None:
        """Make the media folder ready. Only for the process that serves it."""
        self._store.prepare()

    async def upload(
        self,
        owner: str,
        body: AsyncIterator[bytes],
        *,
        content_type: str | None,
        file_name: str | None,
    ) -> str:
        """Store a file under a new id and return its mxc:// URI; M_TOO_LARGE above the limit."""
        name = clean_file_name(file_name)
        media_id = _new_media_id()

        async def record(file: KeptFile) -> None:
            tx = Transaction()
            storage.append_media(
                tx, media_id, owner, file.digest, file.size,
                content_type=content_type_of(content_type), file_name=name,
                now_ms=self._clock.now_ms(),
            )  # fmt: skip
            await self._db.commit(tx)

        await self.receive(body, record)
        return self._uri(media_id)

    async def reserve(self, owner: str) -> tuple[str, int]:
        """Hand out an mxc:// URI to upload to, until the time (ms) that is returned with it.

        M_LIMIT_EXCEEDED when the user holds too many open ones.
        """
        now_ms = self._clock.now_ms()
        expires_ms = now_ms + RESERVATION_LIFETIME_MS
        media_id = _new_media_id()
        tx = Transaction()
        storage.guard_reservation(
            tx, media_id, owner, now_ms=now_ms, expires_ms=expires_ms, most=MAX_OPEN_RESERVATIONS
        )
        storage.delete_expired_reservations(tx, owner, now_ms)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            first_ms = await storage.find_first_expiry(self._db, owner, now_ms)
            raise LimitExceeded(
                max(1, (first_ms or now_ms) - now_ms), "Too many uploads are pending"
            ) from None
        return self._uri(media_id), expires_ms

    async def fill(
        self,
        owner: str,
        server_name: str,
        media_id: str,
        body: AsyncIterator[bytes],
        *,
        content_type: str | None,
        file_name: str | None,
    ) -> None:
        """Store a file under an id that `reserve` handed out to the same user."""
        name = clean_file_name(file_name)
        await self._check_open(owner, server_name, media_id)

        async def record(file: KeptFile) -> None:
            tx = Transaction()
            storage.guard_filled(
                tx, media_id, file.digest, file.size,
                content_type=content_type_of(content_type), file_name=name,
                now_ms=self._clock.now_ms(),
            )  # fmt: skip
            await self._db.commit(tx)

        try:
            await self.receive(body, record)
        except GuardFailed:
            await self._check_open(owner, server_name, media_id)
            raise
        event = self._uploaded.get(media_id)
        if event is not None:
            event.set()

    async def get(self, server_name: str, media_id: str, wait_ms: int) -> Media:
        """Return what an id names, waiting for an upload that is still to come.

        M_NOT_FOUND for an unknown id, and for every other server's: see `media.remote_media`.
        M_NOT_YET_UPLOADED (504) after `wait_ms`.
        """
        found = await self._find(server_name, media_id)
        if found is not None and found.digest is None and wait_ms > 0:
            event = self._uploaded.setdefault(media_id, asyncio.Event())
            # Once more, as it may have been uploaded before there was an event to set.
            found = await self._find(server_name, media_id)
            if found is not None and found.digest is None:
                try:
                    async with asyncio.timeout(wait_ms / 1000):
                        await event.wait()
                except TimeoutError:
                    pass
                found = await self._find(server_name, media_id)
        if found is None or not found.is_served:
            # The same answer for both: what is in quarantine is nobody's business.
            raise NotFound("Unknown media ID")
        if found.digest is None:
            raise MatrixError(504, "M_NOT_YET_UPLOADED", "Content has not yet been uploaded")
        return Media(
            found.digest, self._store.path_of(found.digest), found.content_type, found.file_name
        )

    async def delete(
        self, media_ids: Sequence[str], also: Callable[[Transaction], None] | None = None
    ) -> None:
        """Forget ids, and remove their files unless other ids name the same bytes.

        `also` records what belongs into the same commit.
        """
        tx = Transaction()
        for media_id in media_ids:
            storage.release_media(tx, media_id)
        if also is not None:
            also(tx)
        await self._db.commit(tx)
        await self.remove_unnamed()

    async def remove_unnamed(self) -> None:
        """Remove the files that nothing names any more."""
        while digests := await storage.unnamed_files(self._db, BATCH):
            async with self._placing.remove():
                for digest in digests:
                    tx = Transaction()
                    storage.guard_unnamed(tx, digest)
                    try:
                        await self._db.commit(tx)
                    except GuardFailed:
                        continue  # uploaded again meanwhile
                    await self.on_disk(self._store.remove, digest)

    async def run(self) -> None:
        """Remove such files now and every hour; in the background."""
        while True:
            await self.remove_unnamed()
            await asyncio.sleep(TIDY_EVERY_S)

    async def on_disk(self, call: Callable[..., T], *args: object) -> T:
        """Run a blocking function of files in a thread. A disk that fails is a 503."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)
        except FileNotFoundError:
            raise
        except OSError:
            log.exception("media folder failed")
            raise MatrixError(503, "M_UNKNOWN", "The server cannot store files now") from None

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def path_of(self, digest: bytes) -> Path:
        """Return where the bytes with this digest are."""
        return self._store.path_of(digest)

    async def receive(
        self, body: AsyncIterator[bytes], record: Callable[[KeptFile], Awaitable[None]]
    ) -> None:
        """Write a body to the disk, holding no more than a block of it in memory.

        `record` commits the row that names the file.
        """
        file: IncomingFile | None = None
        block = bytearray()
        size = 0
        try:
            async for piece in body:
                size += len(piece)
                if size > self.max_upload_bytes:
                    raise TooLarge(f"Files may have at most {self.max_upload_bytes} bytes")
                block += piece
                if len(block) >= BLOCK:
                    if file is None:
                        file = await self.on_disk(self._store.begin)
                    await self.on_disk(file.write, block)
                    block = bytearray()
            async with self._placing.place():
                keep = self._store.keep if file is None else file.keep
                await record(await self.on_disk(keep, block))
        finally:
            if file is not None:
                await self.on_disk(file.discard)

    async def _check_open(self, owner: str, server_name: str, media_id: str) -> None:
        found = await self._find(server_name, media_id)
        if found is None:
            raise NotFound("Unknown media ID")
        if found.owner != owner:
            raise Forbidden("This media ID was handed out to somebody else")
        if found.digest is not None:
            raise MatrixError(409, "M_CANNOT_OVERWRITE_MEDIA", "Media already uploaded")

    async def _find(self, server_name: str, media_id: str) -> storage.StoredMedia | None:
        """Return a row that has not expired; path tricks and other servers find none."""
        if server_name != self._server_name or not is_media_id(media_id):
            return None
        found = await storage.find_media(self._db, media_id)
        if found is None or found.expires_ms is None:
            return found
        return found if found.expires_ms > self._clock.now_ms() else None

    def _uri(self, media_id: str) -> str:
        return f"mxc://{self._server_name}/{media_id}"


def _new_media_id() -> str:
    # 144 bits: an id is what lets somebody who is not in the room find an unencrypted file.
    return secrets.token_urlsafe(18)
