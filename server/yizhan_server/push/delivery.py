"""Delivery: one follower of the stream, and one task for each pusher that has something to send.

A pusher's position says up to where its gateway has been told; it moves only after the gateway's
200, so a crash repeats at most one notification. A gateway that fails is asked again with
growing delays, and never about what is older than a day; one that refuses a notification itself,
only a few times.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable

import aiohttp
import orjson

from yizhan_config.outbound import OutboundRefused, OutboundSession, ResponseTooLarge, read_bounded
from yizhan_config.tasks import Background
from yizhan_database import Database, Transaction
from yizhan_server.accounts.pushers import Pushers
from yizhan_server.clock import Clock
from yizhan_server.ephemeral.unread import UnreadCounts
from yizhan_server.protocol.canonical_json import encode_any
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.push.notification import JsonObject, Subject, make_badge, make_notification
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import invitations as stored_invitations
from yizhan_server.storage import out_of_band as stored_changes
from yizhan_server.storage import pushers as storage
from yizhan_server.storage import receipts as stored_receipts
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.events import REDACTED, StoredEvent
from yizhan_server.storage.pushers import Notice, Pusher
from yizhan_server.streams import Stream

log = logging.getLogger(__name__)

PAGE = 200
LAG = 1000
"""Positions that a pusher may be behind without a notification."""
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 3600.0
REQUEST_TIMEOUT_S = 60.0
MAX_AGE_MS = 24 * 3600 * 1000
MAX_ANSWER_BYTES = 64 << 10


REFUSED = (400, 413, 422)
"""Statuses that say: not this notification."""
REFUSALS = 3
"""So often one is offered that is refused so; whoever wrote the event shall not end all others."""


class GatewayFailed(Exception):
    """The gateway gave no usable answer; `after_s` is when it wants to be asked again."""

    def __init__(self, after_s: float | None = None, *, is_refusal: bool = False) -> None:
        super().__init__("the push gateway did not take the notification")
        self.after_s = after_s
        self.is_refusal = is_refusal


class PushDelivery:
    """Tells push gateways of events that notify."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        clock: Clock,
        rooms: Rooms,
        pushers: Pushers,
        unread: UnreadCounts,
        outbound: OutboundSession,
        background: Background,
    ) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._rooms = rooms
        self._pushers = pushers
        self._unread = unread
        self._outbound = outbound
        self._background = background
        self._users: set[str] = set()
        self._running: dict[tuple[str, str, str], asyncio.Event] = {}
        self._badges: dict[tuple[str, str, str], int] = {}
        """The unread count that each gateway was last told by this process."""
        self._stale_badges: set[tuple[str, str, str]] = set()
        self._changed = asyncio.Event()
        pushers.on_change(lambda _: self._changed.set())

    def start(self) -> None:
        """Begin to follow the stream."""
        self._background.keep("push delivery", self._follow)

    async def _follow(self) -> None:
        self._users = await storage.users_with_pushers(self._db)
        cursor = self._stream.position
        # What was committed but not told before the last end of the process.
        for user_id in self._users:
            await self._nudge(user_id)
        with self._stream.follow() as published:
            while not self._stream.closing:
                if self._changed.is_set():
                    self._changed.clear()
                    self._users = await storage.users_with_pushers(self._db)
                upto = self._stream.position
                if cursor < upto and self._users:
                    cursor = await self._look(cursor, upto)
                    continue
                cursor = upto
                await published.wait()
                published.clear()

    async def _look(self, cursor: int, upto: int) -> int:
        """Nudge whoever may be notified by the next events; returns the new cursor."""
        page = await storage.events_in_stream(self._db, cursor, upto, PAGE)
        concerned: set[str] = set()
        rooms = await self._rooms.by_nid(list({room for _, room, _ in page}))
        for _, room, _ in page:
            concerned |= self._users & await rooms[room].local_users()
            concerned |= self._users & set(await stored_rooms.members(self._db, room, "invite"))
        end = upto if len(page) < PAGE else page[-1][0]
        outside = await stored_changes.changes_within(self._db, cursor, end, 10 * PAGE)
        if len(outside) == 10 * PAGE:
            end = outside[-1][0]
        concerned |= self._users & {user_id for _, _, user_id, _ in outside}
        readers = await stored_receipts.users_who_read(self._db, cursor, end)
        # Whoever sends something has read what was before it.
        readers = self._users & (readers | {sender for _, _, sender in page})
        for user_id in concerned | readers:
            await self._nudge(user_id, has_read=user_id in readers)
        return end

    async def _nudge(self, user_id: str, *, has_read: bool = False) -> None:
        """Have each of the user's pushers look for something to send."""
        for pusher in await self._pushers.find_all(UserID(user_id)):
            key = (user_id, pusher.app_id, pusher.pushkey)
            if has_read:
                self._stale_badges.add(key)
            running = self._running.get(key)
            if running is not None:
                running.set()
            elif pusher.pos < self._stream.position:
                self._running[key] = asyncio.Event()
                self._background.spawn("pusher", self._run(*key))

    async def _run(self, user_id: str, app_id: str, pushkey: str) -> None:
        """Send everything there is for one pusher, then end."""
        key = (user_id, app_id, pushkey)
        nudged = self._running[key]
        delay, refusals = FIRST_DELAY_S, 0
        try:
            while not self._stream.closing:
                nudged.clear()
                pusher = await self._find(key)
                if pusher is None:
                    return
                upto = self._stream.position
                notices = await self._notices(user_id, pusher.pos, upto)
                told = 0
                try:
                    for notice in notices:
                        await self._tell(key, pusher, notice)
                        told += 1
                        delay, refusals = FIRST_DELAY_S, 0
                    if len(notices) < PAGE:
                        await self._tell_badge(key, pusher)
                except GatewayFailed as failed:
                    refusals += failed.is_refusal
                    if refusals >= REFUSALS and told < len(notices):
                        await self._advance(key, notices[told].pos)
                        delay, refusals = FIRST_DELAY_S, 0
                        continue
                    wait = delay if failed.after_s is None else max(delay, failed.after_s)
                    delay = min(delay * 2, LONGEST_DELAY_S)
                    await asyncio.sleep(min(wait, LONGEST_DELAY_S))
                    continue
                if len(notices) < PAGE:
                    # Most events notify nobody: not worth a write each, only a bound.
                    if upto - pusher.pos > LAG:
                        await self._advance(key, upto)
                    if not nudged.is_set():
                        return
        finally:
            del self._running[key]
            if key[0] not in self._users:
                self._badges.pop(key, None)
                self._stale_badges.discard(key)

    async def _notices(self, user_id: str, after: int, upto: int) -> list[Notice]:
        """Return what comes next, of rooms that are here and invitations to those that are not."""
        notices = await storage.notices_after(self._db, user_id, after, upto, PAGE)
        notices += await stored_changes.notices_after(self._db, user_id, after, upto, PAGE)
        return sorted(notices, key=lambda notice: notice.pos)[:PAGE]

    async def _find(self, key: tuple[str, str, str]) -> Pusher | None:
        user_id, app_id, pushkey = key
        for pusher in await self._pushers.find_all(UserID(user_id)):
            if (pusher.app_id, pusher.pushkey) == (app_id, pushkey):
                return pusher
        return None

    async def _advance(self, key: tuple[str, str, str], position: int) -> None:
        tx = Transaction()
        storage.advance_pusher(tx, *key, position)
        await self._db.commit(tx)

    async def _tell(self, key: tuple[str, str, str], pusher: Pusher, notice: Notice) -> None:
        """Tell the gateway of one event, unless it no longer matters; then move on."""
        user_id = UserID(key[0])
        subject = await self._subject(user_id, notice)
        if subject is not None:
            body = make_notification(pusher, notice, subject)
            if not await self._deliver(key, pusher, body):
                return
            self._badges[key] = subject.unread
        await self._advance(key, notice.pos)

    async def _tell_badge(self, key: tuple[str, str, str], pusher: Pusher) -> None:
        """Tell the count of unread events, if the last one told is no longer right."""
        if key not in self._stale_badges:
            return
        self._stale_badges.discard(key)
        told = self._badges.get(key)
        if told is None:
            return
        unread = await self._badge(UserID(key[0]))
        if unread != told and await self._deliver(key, pusher, make_badge(pusher, unread)):
            self._badges[key] = unread

    async def _deliver(self, key: tuple[str, str, str], pusher: Pusher, body: JsonObject) -> bool:
        """Send a body; False when the gateway rejects the pushkey, which ends the pusher."""
        rejected = await self._post(orjson.loads(pusher.data)["url"], encode_any(body))
        if pusher.pushkey not in rejected:
            return True
        user_id = UserID(key[0])
        log.info("pushkey rejected", extra={"user_id": user_id, "app_id": pusher.app_id})
        await self._pushers.remove_rejected(user_id, pusher.app_id, pusher.pushkey)
        return False

    async def _subject(self, user_id: UserID, notice: Notice) -> Subject | None:
        """Return what to say of an event; None when it was read, redacted or is too old."""
        event = (await stored_events.events_by_nid(self._db, [notice.event]))[notice.event]
        if event.flags & REDACTED or event.ts_ms < self._clock.now_ms() - MAX_AGE_MS:
            return None
        for receipt in await stored_receipts.receipts_of_user(self._db, notice.room, user_id):
            if receipt.event_pos >= notice.pos and receipt.thread in ("", event.thread or "main"):
                return None
        room = (await self._rooms.by_nid([notice.room]))[notice.room]
        contents = await self._contents(room, event, user_id)
        return Subject(
            room.room_id,
            event,
            _text(contents, "m.room.member", "displayname"),
            _text(contents, "m.room.name", "name"),
            _text(contents, "m.room.canonical_alias", "alias"),
            event.type == "m.room.member" and event.state_key == user_id,
            await self._badge(user_id),
        )

    async def _contents(
        self, room: Room, event: StoredEvent, user_id: UserID
    ) -> dict[str, JsonObject]:
        """Return by type the state that says what the room and the sender are called.

        Of a room that is not here that is what came with the invitation.
        """
        wanted = {"m.room.member": event.sender, "m.room.name": "", "m.room.canonical_alias": ""}
        if event.pos == 0:
            told = await stored_invitations.find_state(self._db, room.nid, user_id) or []
            return {
                each["type"]: each["content"]
                for each in told
                if wanted.get(each["type"]) == each["state_key"]
            }
        found = {kind: await room.state_event(kind, key) for kind, key in wanted.items()}
        return {kind: each.pdu.content for kind, each in found.items() if each is not None}

    async def _badge(self, user_id: UserID) -> int:
        """Return the number of unread events that notified, of all rooms."""
        unread = 0
        for membership in await stored_rooms.memberships_of_user(self._db, user_id):
            if membership.membership == "invite":
                unread += 1
            elif membership.membership == "join":
                room = (await self._rooms.by_nid([membership.room]))[membership.room]
                unread += (await self._unread.of(room, user_id, self._stream.position)).notify
        return unread

    async def _post(self, url: str, body: bytes) -> Iterable[str]:
        """Send one notification; returns the pushkeys that the gateway rejects."""
        # The whole address may be secret; its digest tells two gateways apart in the log.
        gateway = hashlib.sha256(url.encode()).hexdigest()[:8]
        try:
            async with self._outbound.request(
                "POST", url, data=body, headers={"Content-Type": "application/json"},
                timeout_seconds=REQUEST_TIMEOUT_S,
            ) as response:  # fmt: skip
                if response.status != 200:
                    log.warning(
                        "push gateway refused",
                        extra={"gateway": gateway, "status": response.status},
                    )
                    raise GatewayFailed(
                        _seconds(response.headers.get("Retry-After")),
                        is_refusal=response.status in REFUSED,
                    )
                answer = orjson.loads(await read_bounded(response, MAX_ANSWER_BYTES))
        except OutboundRefused as refused:
            log.warning(
                "push gateway not allowed; see outbound.allow",
                extra={"gateway": gateway, "why": str(refused)},
            )
            raise GatewayFailed(LONGEST_DELAY_S) from None
        except (
            TimeoutError, aiohttp.ClientError, OSError, orjson.JSONDecodeError, ResponseTooLarge
        ) as error:  # fmt: skip
            log.warning(
                "push gateway failed", extra={"gateway": gateway, "error": type(error).__name__}
            )
            raise GatewayFailed from None
        rejected = answer.get("rejected") if isinstance(answer, dict) else None
        return (
            [key for key in rejected if isinstance(key, str)] if isinstance(rejected, list) else []
        )


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None


def _text(contents: dict[str, JsonObject], kind: str, field: str) -> str | None:
    value = contents.get(kind, {}).get(field)
    return value if isinstance(value, str) else None
