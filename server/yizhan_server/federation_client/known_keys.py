"""The signing keys of other servers as far as they are known: durable, with a cache in memory.

A server's own word replaces what was known: keys that it no longer lists sign nothing from then
on, though they go on proving what they have signed. A notary's word only adds.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from yizhan_database import Transaction
from yizhan_server.protocol.canonical_json import JsonObject, encode_canonical
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.server_keys import InvalidServerKeys, ServerKey, check_server_keys
from yizhan_server.protocol.signing import VerifyKey
from yizhan_server.storage import server_keys as storage
from yizhan_server.storage.server_keys import StoredAnswer, StoredKey

if TYPE_CHECKING:
    from yizhan_database import Database

MAX_ANSWER_BYTES = 16_384
MAX_KEPT = 200
"""Keys of one server. One that changes them daily would reach it in half a year."""

MAX_CACHED = 2000
"""Servers."""

Keys = Mapping[str, ServerKey]


class KnownKeys:
    """What is known of each server's keys."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._cache: OrderedDict[ServerName, Keys] = OrderedDict()

    async def of(self, server: ServerName) -> Keys:
        """Return the keys of a server by their IDs, {} if none is known."""
        cached = self._cache.get(server)
        if cached is not None:
            self._cache.move_to_end(server)
            return cached
        return await self.read(server)

    async def read(self, server: ServerName) -> Keys:
        """Return the keys of a server from the database, to which other processes write too."""
        keys = {
            stored.key_id: ServerKey(
                VerifyKey(stored.key_id, stored.public_key), stored.valid_until_ms, stored.is_old
            )
            for stored in await storage.find_keys(self._db, server)
        }
        self._remember(server, keys)
        return keys

    async def find_answer(self, server: ServerName) -> StoredAnswer | None:
        """Return what a server last published."""
        return await storage.find_answer(self._db, server)

    async def find_dropped(self, server: ServerName, key_ids: Collection[str]) -> list[JsonObject]:
        """Return what a server published while it listed those of the keys that it has dropped."""
        kept = await storage.find_kept_answers(self._db, server, key_ids) if key_ids else []
        return [orjson.loads(answer) for answer in kept]

    async def learn(
        self, server: ServerName, answer: object, now_ms: int, *, from_itself: bool
    ) -> None:
        """Keep what `server` has published, as it told itself or a notary. InvalidServerKeys."""
        found, valid_until_ms = check_server_keys(answer, server, now_ms)
        stored_answer = _own_words(answer, server)
        before = await self.read(server)
        after = _told_by_itself(before, found, now_ms) if from_itself else _added(before, found)
        kept = _bounded(after, found)
        tx = Transaction()
        storage.upsert_keys(
            tx,
            server,
            [
                StoredKey(key_id, each.key.public_key, each.valid_until_ms, each.is_old)
                for key_id, each in kept.items()
                if before.get(key_id) != each
            ],
        )
        if dropped := before.keys() - kept.keys():
            storage.delete_keys(tx, server, dropped)
        last = await self.find_answer(server)
        if from_itself and last is not None and (gone := before.keys() - found.keys()):
            named = orjson.loads(last.answer)["verify_keys"].keys()
            if gone & named:
                storage.keep_answer(tx, server, gone & named, last.answer)
        if from_itself or last is None:
            storage.upsert_answer(tx, server, StoredAnswer(stored_answer, now_ms, valid_until_ms))
        tx.after_commit(lambda _: self._remember(server, kept))
        if tx.operations:
            await self._db.commit(tx)

    def _remember(self, server: ServerName, keys: Keys) -> None:
        self._cache[server] = keys
        self._cache.move_to_end(server)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)


def load_answer(stored: StoredAnswer) -> JsonObject:
    """Return the JSON of what a server published."""
    answer: JsonObject = orjson.loads(stored.answer)
    return answer


def _told_by_itself(before: Keys, found: Keys, now_ms: int) -> dict[str, ServerKey]:
    left = {
        key_id: replace(each, valid_until_ms=min(each.valid_until_ms, now_ms), is_old=True)
        for key_id, each in before.items()
        if key_id not in found
    }
    return {**left, **found}


def _added(before: Keys, found: Keys) -> dict[str, ServerKey]:
    """Return what is known with what a notary adds: new keys, and longer validity of one in use."""
    after = dict(before)
    for key_id, each in found.items():
        known = before.get(key_id)
        if known is None:
            after[key_id] = each
        elif known.key == each.key and not known.is_old and not each.is_old:
            after[key_id] = max(known, each, key=lambda one: one.valid_until_ms)
    return after


def _bounded(keys: Keys, published: Keys) -> Keys:
    if len(keys) <= MAX_KEPT:
        return keys
    by_age = sorted(keys, key=lambda key_id: (key_id in published, keys[key_id].valid_until_ms))
    return {key_id: keys[key_id] for key_id in by_age[-MAX_KEPT:]}


def _own_words(answer: object, server: ServerName) -> bytes:
    """Return the answer without what others have signed of it."""
    if not isinstance(answer, dict):
        raise InvalidServerKeys("not an object")
    own = {**answer, "signatures": {server: answer["signatures"][server]}}
    own.pop("unsigned", None)
    encoded = encode_canonical(own)
    if len(encoded) > MAX_ANSWER_BYTES:
        raise InvalidServerKeys(f"more than {MAX_ANSWER_BYTES} bytes")
    return encoded
