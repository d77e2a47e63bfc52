"""The room directories of other servers.

Spec: server-server API, "Published Room Directory"; client-server API, "Listing rooms".
"""

from __future__ import annotations

from typing import Any

from yizhan_server.federation_client.errors import RemoteFailure, RemoteMisbehaved, told_to_client
from yizhan_server.federation_client.queries import QueryRequests
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.rooms.remote_summaries import read_entry
from yizhan_server.search.room_directory import RoomsWanted

MAX_LIMIT = 500
"""Rooms that another server is asked for at once; it may give fewer."""


class RemoteDirectories:
    """Asks servers which rooms they publish."""

    def __init__(self, queries: QueryRequests) -> None:
        self._queries = queries

    async def page(
        self, server: ServerName, wanted: RoomsWanted, network: str | None
    ) -> dict[str, Any]:
        """Return a page of a server's list; only its tokens lead to further ones."""
        content: JsonObject = {"limit": min(wanted.limit or MAX_LIMIT, MAX_LIMIT)}
        chosen: JsonObject = {}
        if wanted.term is not None:
            chosen["generic_search_term"] = wanted.term
        if wanted.room_types is not None:
            chosen["room_types"] = list(wanted.room_types)
        if chosen:
            content["filter"] = chosen
        if wanted.since is not None:
            content["since"] = wanted.since
        if network is not None:
            content["third_party_instance_id"] = network
        if wanted.all_networks:
            content["include_all_networks"] = True
        try:
            return _checked(server, await self._queries.public_rooms(server, content))
        except RemoteFailure as failure:
            raise told_to_client(failure) from None


def _checked(server: ServerName, answer: JsonObject) -> dict[str, Any]:
    """Return what of an answer has the form that clients expect. Raises RemoteMisbehaved."""
    chunk = answer.get("chunk")
    if not isinstance(chunk, list):
        raise RemoteMisbehaved(server, "no list of rooms")
    page: dict[str, Any] = {
        "chunk": [entry for each in chunk[:MAX_LIMIT] if (entry := read_entry(each)) is not None]
    }
    for name in ("next_batch", "prev_batch"):
        if isinstance(answer.get(name), str):
            page[name] = answer[name]
    total = answer.get("total_room_count_estimate")
    if isinstance(total, int) and not isinstance(total, bool):
        page["total_room_count_estimate"] = total
    return page
