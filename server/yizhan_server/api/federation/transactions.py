"""What other servers send of their own accord.

Spec: server-server API, "Transactions".
"""

from __future__ import annotations

from typing import Any

import msgspec

from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Call, JsonObject

routes = make_routes()

MAX_BYTES = 16 << 20
"""Fifty events of 64 KiB are three million bytes; hundred EDUs may carry more."""


class TransactionBody(msgspec.Struct):
    """PUT /send."""

    pdus: list[Any] = []
    edus: list[Any] = []


@routes.put("/v1/send/{txn_id}", body=TransactionBody, max_body=MAX_BYTES)
async def send(call: Call[TransactionBody]) -> JsonObject:
    """Take a transaction."""
    return await call.services.federation_transactions.receive(
        call.origin, call.path["txn_id"], call.body.pdus, call.body.edus
    )
