"""What users publish about themselves at identity servers, and take back.

Spec: client-server API, "Adding Account Administrative Contact Information" (bind, unbind,
delete), "Account deactivation".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from yizhan_database import Transaction
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.storage import identity_bindings as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.identity.servers import IdentityServers
    from yizhan_server.protocol.identifiers import UserID

log = logging.getLogger(__name__)


class IdentityBindings:
    """Binds and unbinds addresses."""

    def __init__(self, db: Database, servers: IdentityServers) -> None:
        self._db = db
        self._servers = servers

    async def bind(
        self, user_id: UserID, id_server: str, token: str, *, sid: str, client_secret: str
    ) -> None:
        """Publish an address that the user verified at an identity server."""
        server = self._servers.access(id_server)
        medium, address = await self._servers.bind(
            server, token, sid=sid, client_secret=client_secret, user_id=user_id
        )
        tx = Transaction()
        storage.upsert_binding(tx, user_id, medium, address, server)
        await self._db.commit(tx)

    async def unbind(
        self, user_id: UserID, medium: str, address: str, id_server: str | None
    ) -> bool:
        """Take an address back where it is published, or at `id_server`; whether that was done."""
        bound = await storage.find_bindings(self._db, user_id)
        places = [server for m, a, server in bound if (m, a) == (medium, address)]
        if id_server is not None:
            places = [self._servers.access(id_server)]
        done = [await self._unbind(user_id, medium, address, ServerName(each)) for each in places]
        return bool(done) and all(done)

    async def unbind_all(self, user_id: UserID) -> bool:
        """Take everything back; whether nothing is left. A server that fails is passed over."""
        results = []
        for medium, address, server in await storage.find_bindings(self._db, user_id):
            try:
                done = await self._unbind(user_id, medium, address, ServerName(server))
            except MatrixError as error:
                log.warning("an address stays published", extra={"why": error.errcode})
                done = False
            results.append(done)
        return all(results)

    async def _unbind(self, user_id: UserID, medium: str, address: str, server: ServerName) -> bool:
        if not await self._servers.unbind(self._servers.access(server), user_id, medium, address):
            return False
        tx = Transaction()
        storage.delete_binding(tx, user_id, medium, address, server)
        await self._db.commit(tx)
        return True
