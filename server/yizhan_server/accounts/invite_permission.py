"""Whether somebody takes invitations, from the account data `m.invite_permission_config`.

Spec: client-server API, "Invite permission".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from yizhan_server.storage import account_data as storage
from yizhan_server.storage.account_data import GLOBAL

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.protocol.identifiers import UserID

CONFIG = "m.invite_permission_config"


async def blocks_invites(db: Database, user_id: UserID) -> bool:
    """Whether a local user refuses all invitations."""
    content = await storage.find_account_datum(db, user_id, GLOBAL, CONFIG)
    return content is not None and orjson.loads(content).get("default_action") == "block"
