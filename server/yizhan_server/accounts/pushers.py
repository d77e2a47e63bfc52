"""Pushers: where a user's devices want to be told of events. Delivery is `push`'s.

Spec: client-server API, "Push Notifications".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from yizhan_database import Transaction
from yizhan_server.accounts.text import check_text
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import InvalidParam, MissingParam
from yizhan_server.storage import pushers as storage
from yizhan_server.storage.pushers import Pusher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yizhan_database import Commit, Database
    from yizhan_server.accounts.requester import Requester
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import DeviceID, UserID
    from yizhan_server.streams import Stream

NOTIFY_PATH = "/_matrix/push/v1/notify"
MAX_PUSHERS = 100
MAX_DATA_BYTES = 8192


class Pushers:
    """The pushers of local users; `on_change` callbacks run after each commit that changes any."""

    def __init__(self, db: Database, stream: Stream, clock: Clock) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._on_change: list[Callable[[UserID], None]] = []

    def on_change(self, call: Callable[[UserID], None]) -> None:
        """Have `call` told whose pushers changed."""
        self._on_change.append(call)

    async def find_all(self, user_id: UserID) -> list[Pusher]:
        """Return a user's pushers."""
        return await storage.find_pushers(self._db, user_id)

    async def set(self, requester: Requester, body: dict[str, Any]) -> None:
        """Create, change or (kind null) delete a pusher, as `POST /pushers/set` says.

        Answers M_MISSING_PARAM or M_INVALID_PARAM.
        """
        if "kind" not in body:
            raise MissingParam("Missing parameters: kind")
        app_id = _text(body, "app_id", 64)
        pushkey = _text(body, "pushkey", 512)
        user_id = requester.user_id
        tx = Transaction()
        if body["kind"] is None:
            storage.delete_pusher(tx, user_id, app_id, pushkey)
        else:
            pusher = self._parse(body, app_id, pushkey)
            known = await storage.find_pushers(self._db, user_id)
            is_new = all((other.app_id, other.pushkey) != (app_id, pushkey) for other in known)
            if is_new and len(known) >= MAX_PUSHERS:
                raise InvalidParam(f"An account has at most {MAX_PUSHERS} pushers")
            if not body.get("append", False):
                storage.delete_pushers_of_others(tx, user_id, app_id, pushkey)
            pos = tx.position()
            storage.upsert_pusher(tx, user_id, requester.device_id, pusher, pos)
            tx.after_commit(lambda commit: self._stream.publish(commit[pos]))
        tx.after_commit(self._changed(user_id))
        await self._db.commit(tx)

    async def remove_rejected(self, user_id: UserID, app_id: str, pushkey: str) -> None:
        """Remove a pusher that its gateway has rejected for good."""
        tx = Transaction()
        storage.delete_pusher(tx, user_id, app_id, pushkey)
        tx.after_commit(self._changed(user_id))
        await self._db.commit(tx)

    def record_end_of_devices(
        self, tx: Transaction, user_id: UserID, device_ids: Sequence[DeviceID]
    ) -> None:
        """Record the removal of what these devices set: a `DeviceForgetter`."""
        storage.delete_pushers_of_devices(tx, user_id, device_ids)
        tx.after_commit(self._changed(user_id))

    def _changed(self, user_id: UserID) -> Callable[[Commit], None]:
        def tell(_: Commit) -> None:
            for call in self._on_change:
                call(user_id)

        return tell

    def _parse(self, body: dict[str, Any], app_id: str, pushkey: str) -> Pusher:
        if body["kind"] != "http":
            raise InvalidParam("'kind' is http or null")
        missing = [
            name
            for name in ("app_display_name", "device_display_name", "lang", "data")
            if name not in body
        ]
        if missing:
            raise MissingParam(f"Missing parameters: {', '.join(missing)}")
        if not isinstance(body.get("append", False), bool):
            raise InvalidParam("'append' is true or false")
        data = body["data"]
        if not isinstance(data, dict):
            raise InvalidParam("'data' is an object")
        check_notify_url(data.get("url"))
        encoded = encode_canonical(data)
        if len(encoded) > MAX_DATA_BYTES:
            raise InvalidParam(f"'data' has at most {MAX_DATA_BYTES} bytes")
        profile_tag = body.get("profile_tag")
        return Pusher(
            app_id=app_id,
            pushkey=pushkey,
            app_display_name=_text(body, "app_display_name", 255, allow_empty=True),
            device_display_name=_text(body, "device_display_name", 255, allow_empty=True),
            profile_tag=None
            if profile_tag is None
            else _text(body, "profile_tag", 255, allow_empty=True),
            lang=_text(body, "lang", 64, allow_empty=True),
            data=encoded,
            created_ms=self._clock.now_ms(),
            pos=0,
        )


def check_notify_url(url: object) -> str:
    """Return the address of a push gateway, or answer M_INVALID_PARAM.

    Whether it may be called at all is decided when it is (`outbound.allow`). The specification
    wants https; a gateway on the same machine may do without.
    """
    if url is None:
        raise MissingParam("Missing parameters: data.url")
    if isinstance(url, str):
        try:
            parts = urlsplit(url)
            is_good = (
                parts.scheme in ("https", "http")
                and bool(parts.hostname)
                and parts.path == NOTIFY_PATH
                and not parts.query
                and not parts.fragment
                and parts.port != 0
            )
        except ValueError:
            is_good = False
        if is_good:
            return url
    raise InvalidParam(f"'data.url' is an http(s) URL with the path {NOTIFY_PATH}")


def to_json(pusher: Pusher) -> dict[str, Any]:
    """Return a pusher as `GET /pushers` shows it."""
    shown: dict[str, Any] = {
        "kind": "http",
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "app_display_name": pusher.app_display_name,
        "device_display_name": pusher.device_display_name,
        "lang": pusher.lang,
        "data": orjson.Fragment(pusher.data),
    }
    if pusher.profile_tag is not None:
        shown["profile_tag"] = pusher.profile_tag
    return shown


def _text(body: dict[str, Any], name: str, max_bytes: int, *, allow_empty: bool = False) -> str:
    if name not in body:
        raise MissingParam(f"Missing parameters: {name}")
    value = body[name]
    if not isinstance(value, str):
        raise InvalidParam(f"'{name}' is a string")
    return check_text(value, f"'{name}'", max_bytes=max_bytes, allow_empty=allow_empty)
