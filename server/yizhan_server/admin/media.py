"""Acts of administrators upon files. Each is on the record.

Quarantine is of bytes: whatever id they were, or will be, uploaded under is not served. The files
stay where they are, as evidence.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from yizhan_database import Transaction
from yizhan_server.admin.gate import Administrator, get_account
from yizhan_server.protocol.canonical_json import parse_roughly
from yizhan_server.protocol.errors import NotFound
from yizhan_server.storage import media_administration as storage
from yizhan_server.storage.remote_media import find_listed_remote_media

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.admin.record import Record
    from yizhan_server.clock import Clock
    from yizhan_server.media.remote_media import RemoteMedia
    from yizhan_server.media.repository import ContentRepository
    from yizhan_server.protocol.identifiers import ServerName, UserID
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.storage.media_administration import ListedMedia

_SCHEME = "mxc://"


class MediaAdministration:
    """What an administrator may do to files."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        record: Record,
        *,
        accounts: Accounts,
        rooms: Rooms,
        media: ContentRepository,
        remote_media: RemoteMedia,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._clock = clock
        self._record = record
        self._accounts = accounts
        self._rooms = rooms
        self._media = media
        self._remote_media = remote_media
        self._server_name = server_name

    # region looking

    async def get(self, server_name: str, media_id: str) -> ListedMedia:
        """Return what is known of a file that is here, or answer M_NOT_FOUND."""
        if server_name == self._server_name:
            found = await storage.find_listed_media(self._db, media_id)
        else:
            found = await find_listed_remote_media(self._db, server_name, media_id)
        if found is None:
            raise NotFound("There is no such file on this server")
        return found

    async def of_user(self, user_id: UserID) -> list[ListedMedia]:
        """Return what somebody uploaded, by id."""
        await get_account(self._accounts, user_id)
        return [each async for each in storage.scan_media_of(self._db, user_id)]

    async def of_room(self, room_id: str) -> tuple[list[str], list[str]]:
        """Return the addresses of the files that a room names: this server's, and others'.

        What encrypted messages name is known to their readers only.
        """
        room = await self._rooms.get(room_id)
        local: dict[str, None] = {}
        remote: dict[str, None] = {}
        async for client in storage.scan_events_with_files(self._db, room.nid):
            for uri in _uris_in(parse_roughly(client)["content"]):
                is_local = uri.startswith(f"{_SCHEME}{self._server_name}/")
                (local if is_local else remote)[uri] = None
        return list(local), list(remote)

    # region quarantine

    async def quarantine(
        self, administrator: Administrator, server_name: str, media_id: str
    ) -> None:
        """Serve a file no longer."""
        found = await self.get(server_name, media_id)
        await self._quarantine(administrator, media_id, [found], "media")

    async def unquarantine(
        self, administrator: Administrator, server_name: str, media_id: str
    ) -> None:
        """Serve a file again, and whatever else has the same bytes."""
        found = await self.get(server_name, media_id)
        entry = await self._record.begin(administrator.user_id, "unquarantine")
        tx = Transaction()
        storage.delete_quarantine(tx, found.digest)
        entry(tx, media_id)
        await self._db.commit(tx)

    async def quarantine_room(self, administrator: Administrator, room_id: str) -> int:
        """Serve nothing any more that a room names; returns how many files that are."""
        found = []
        for uri in itertools.chain(*await self.of_room(room_id)):
            try:
                found.append(await self.get(*uri.removeprefix(_SCHEME).partition("/")[::2]))
            except NotFound:
                continue
        return await self._quarantine(administrator, room_id, found, "room")

    async def quarantine_user(self, administrator: Administrator, user_id: UserID) -> int:
        """Serve nothing any more that somebody uploaded; returns how many files that are."""
        return await self._quarantine(administrator, user_id, await self.of_user(user_id), "user")

    async def set_protected(
        self, administrator: Administrator, media_id: str, *, is_protected: bool
    ) -> None:
        """Have a file served whatever is put into quarantine, or no longer."""
        await self.get(self._server_name, media_id)
        entry = await self._record.begin(
            administrator.user_id, "protect_media" if is_protected else "unprotect_media"
        )
        tx = Transaction()
        storage.update_protected(tx, media_id, is_protected=is_protected)
        entry(tx, media_id)
        await self._db.commit(tx)

    # region deleting

    async def delete(
        self, administrator: Administrator, subject: str, media_ids: Sequence[str]
    ) -> None:
        """Delete files for good; `subject` is one of them, or their owner: for the record."""
        entry = await self._record.begin(
            administrator.user_id, "delete_media", {"media": list(media_ids)}
        )
        await self._media.delete(media_ids, also=entry.about(subject))

    async def delete_remote(
        self, administrator: Administrator, server_name: str, media_id: str
    ) -> None:
        """Delete a file of another server; unless it is in quarantine, it may come again."""
        entry = await self._record.begin(
            administrator.user_id, "delete_media", {"server": server_name}
        )
        tx = Transaction()
        entry(tx, media_id)
        await self._db.commit(tx)
        await self._remote_media.delete(server_name, media_id)

    async def purge_remote(self, administrator: Administrator, before_ms: int) -> int:
        """Delete the files of other servers that nobody has read since; returns how many."""
        entry = await self._record.begin(
            administrator.user_id, "purge_remote_media", {"before_ms": before_ms}
        )
        tx = Transaction()
        entry(tx, self._server_name)
        await self._db.commit(tx)
        return await self._remote_media.purge(before_ms)

    async def _quarantine(
        self, administrator: Administrator, subject: str, found: Sequence[ListedMedia], by: str
    ) -> int:
        chosen = [each for each in found if not each.is_protected and not each.quarantined_by]
        entry = await self._record.begin(
            administrator.user_id, "quarantine", {"by": by, "count": len(chosen)}
        )
        tx = Transaction()
        for digest in {each.digest for each in chosen}:
            storage.insert_quarantine(tx, digest, administrator.user_id, self._clock.now_ms())
        entry(tx, subject)
        await self._db.commit(tx)
        return len(chosen)


def _uris_in(content: dict[str, Any]) -> list[str]:
    """Return the files that an event's content names: what it shows, and the small version."""
    info = content.get("info")
    named = [content.get("url"), info.get("thumbnail_url") if isinstance(info, dict) else None]
    return [uri for uri in named if isinstance(uri, str) and uri.startswith(_SCHEME)]
