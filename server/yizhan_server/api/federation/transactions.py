"""What other servers send of their own accord.

Spec: server-server API, "Transactions".
"""

from __future__ import annotations

from yizhan_server.api.federation import make_routes
from yizhan_server.api.routing import Call, JsonObject
from yizhan_server.protocol.errors import BadJson

routes = make_routes()

MAX_BYTES = 16 << 20
"""Fifty events of 64 KiB are three million bytes; hundred EDUs may carry more."""


@routes.put("/v1/send/{txn_id}", body=dict, max_body=MAX_BYTES)
async def send(call: Call[JsonObject]) -> JsonObject:
    """Take a transaction.

    What is wrong with one event or EDU is no reason to refuse the others: a server sends a
    transaction again until it is taken, and one strange message would stop it for good.
    """
    pdus, edus = call.body.get("pdus", []), call.body.get("edus", [])
    if not isinstance(pdus, list) or not isinstance(edus, list):
        raise BadJson("'pdus' and 'edus' are lists")
    return await call.services.federation_transactions.receive(
        call.origin, call.path["txn_id"], pdus, edus
    )
