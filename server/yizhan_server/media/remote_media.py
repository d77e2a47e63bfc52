"""Files of other servers: fetched once, kept while they are read, removed before space runs out.

What another server says of a file (its type, its name) is treated as what an uploader says.

Spec: client-server API, "Content repository"; server-server API, "Content Repository".
"""

from __future__ import annotations

import asyncio
import logging
import re
from urllib.parse import unquote
from weakref import WeakValueDictionary

from yizhan_config.settings import Media as MediaSettings
from yizhan_config.tasks import Background
from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import RemoteFailure, RemoteRefused, told_to_client
from yizhan_server.federation_client.media import MediaRequests, RemoteFile, RemoteTooLarge
from yizhan_server.federation_client.remembered import Ask, Remembered
from yizhan_server.media.files import KeptFile
from yizhan_server.media.repository import (
    TIDY_EVERY_S,
    ContentRepository,
    Media,
    clean_file_name,
    content_type_of,
    is_media_id,
)
from yizhan_server.protocol.errors import MatrixError, NotFound
from yizhan_server.protocol.identifiers import ServerName, parse_server_name
from yizhan_server.storage import remote_media as storage

log = logging.getLogger(__name__)

AT_ONCE = 20
"""Files that are being fetched; whoever wants more waits."""

OF_ONE_SERVER = 5
"""Of these; one that is slow, or means to be, must leave some to the others."""

MOST_FAILURES = 2000
DAY_MS = 86_400_000
BATCH = 100

_ENCODED_NAME = re.compile(r"""filename\*\s*=\s*utf-8''([^;\s]+)""", re.IGNORECASE)
_PLAIN_NAME = re.compile(r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]+))', re.IGNORECASE)

_Key = tuple[ServerName, str, int]


class RemoteMedia:
    """Keeps files of other servers."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        background: Background,
        repository: ContentRepository,
        requests: MediaRequests,
        settings: MediaSettings,
    ) -> None:
        self._db = db
        self._clock = clock
        self._repository = repository
        self._requests = requests
        self._settings = settings
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._slots_of: WeakValueDictionary[ServerName, asyncio.Semaphore] = WeakValueDictionary()
        self._full = asyncio.Event()
        self._fetched_bytes = 0
        # What is fetched stands in the database; only failures are kept here.
        self._fetches: Remembered[_Key, bool] = Remembered(
            clock, background, self._fetch, for_ms=0, most=MOST_FAILURES
        )

    async def get(self, server_name: str, media_id: str, wait_ms: int, ask: Ask) -> Media:
        """Return a file of another server, fetched now if it is not here.

        M_NOT_FOUND; M_NOT_YET_UPLOADED (504) if its server has waited `wait_ms` for the upload;
        502 when the server gives nothing, or M_TOO_LARGE more than this one takes.
        """
        server = parse_server_name(server_name)
        if not is_media_id(media_id):
            raise NotFound("Unknown media ID")
        found = await storage.find_remote_media(self._db, server, media_id)
        if found is None:
            await self._obtain((server, media_id, wait_ms), ask)
            found = await storage.find_remote_media(self._db, server, media_id)
        if found is None or found.is_quarantined:
            raise NotFound("Unknown media ID")
        now_ms = self._clock.now_ms()
        if now_ms - found.read_ms > DAY_MS:
            tx = Transaction()
            storage.update_read(tx, server, media_id, now_ms)
            await self._db.commit(tx)
        return Media(
            found.digest, self._repository.path_of(found.digest), found.content_type,
            found.file_name,
        )  # fmt: skip

    async def purge(self, before_ms: int) -> int:
        """Remove what nobody has read since a time; returns how many files that were."""
        count = 0
        while batch := await storage.least_read(self._db, BATCH):
            old = [each for each in batch if each.read_ms < before_ms]
            await self._release(old)
            count += len(old)
            if len(old) < len(batch):
                break
        return count

    async def delete(self, server: str, media_id: str) -> None:
        """Remove a file; it would be fetched again."""
        tx = Transaction()
        storage.release_remote_media(tx, server, media_id)
        await self._db.commit(tx)
        await self._repository.remove_unnamed()

    async def run(self) -> None:
        """Remove what is not read any more, and what is too much; in the background."""
        while True:
            self._full.clear()
            self._fetched_bytes = 0
            if self._settings.remote_days:
                await self.purge(self._clock.now_ms() - self._settings.remote_days * DAY_MS)
            await self._make_room()
            try:
                async with asyncio.timeout(TIDY_EVERY_S):
                    await self._full.wait()
            except TimeoutError:
                continue

    async def _make_room(self) -> None:
        over = await storage.total_bytes(self._db) - self._settings.remote_bytes
        while over > 0 and (batch := await storage.least_read(self._db, BATCH)):
            chosen = []
            for each in batch:
                if over <= 0:
                    break
                chosen.append(each)
                over -= each.size
            await self._release(chosen)

    async def _release(self, chosen: list[storage.LeastRead]) -> None:
        tx = Transaction()
        for each in chosen:
            storage.release_remote_media(tx, each.server, each.media_id)
        if tx.operations:
            await self._db.commit(tx)
            await self._repository.remove_unnamed()

    async def _obtain(self, key: _Key, ask: Ask) -> None:
        try:
            is_there = await self._fetches.get(key, ask)
        except RemoteTooLarge:
            raise MatrixError(
                502, "M_TOO_LARGE", "The file is larger than this server takes"
            ) from None
        except RemoteRefused as refusal:
            if refusal.status == 404:
                raise NotFound("Unknown media ID") from None
            raise told_to_client(refusal) from None
        except RemoteFailure as failure:
            raise told_to_client(failure) from None
        if not is_there:
            raise MatrixError(504, "M_NOT_YET_UPLOADED", "Content has not yet been uploaded")

    async def _fetch(self, key: _Key) -> bool:
        """Fetch a file; False if it is not there yet, which is no reason not to ask again."""
        server, media_id, wait_ms = key
        most = self._repository.max_upload_bytes
        of_server = self._slots_of.setdefault(server, asyncio.Semaphore(OF_ONE_SERVER))
        async with of_server, self._slots:
            try:
                async with self._requests.download(
                    server, media_id, max_bytes=most, wait_ms=wait_ms
                ) as file:
                    await self._keep(server, media_id, file)
            except RemoteRefused as refusal:
                if refusal.errcode == "M_NOT_YET_UPLOADED":
                    return False
                raise
        return True

    async def _keep(self, server: ServerName, media_id: str, file: RemoteFile) -> None:
        async def record(kept: KeptFile) -> None:
            tx = Transaction()
            storage.guard_remote_media(
                tx, server, media_id, kept.digest, kept.size,
                content_type=content_type_of(file.content_type),
                file_name=file_name_in(file.content_disposition), now_ms=self._clock.now_ms(),
            )  # fmt: skip
            try:
                await self._db.commit(tx)
            except GuardFailed:
                return  # fetched twice, by those who wait for different times
            self._fetched_bytes += kept.size
            # Not only every hour: a tenth of the space may have come in a minute.
            if self._fetched_bytes > self._settings.remote_bytes // 10:
                self._full.set()

        await self._repository.receive(file.pieces, record)


def file_name_in(header: str | None) -> str | None:
    """Return the name that a Content-Disposition header gives, made safe; None without one."""
    if header is None or len(header) > 8192:
        return None
    encoded = _ENCODED_NAME.search(header)
    if encoded is not None:
        name = unquote(encoded[1], errors="replace")
    else:
        plain = _PLAIN_NAME.search(header)
        if plain is None:
            return None
        name = re.sub(r"\\(.)", r"\1", plain[1]) if plain[1] is not None else plain[2]
    try:
        return clean_file_name(name)
    except MatrixError:
        return None
