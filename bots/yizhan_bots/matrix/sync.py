"""From the homeserver into the inbox: room keys, events and the sync token in one transaction.

The token moves on only together with everything that came before it, our Olm ratchets
included; whatever a crash interrupts is asked for again and finds the database as it was.
What a limited timeline leaves out is fetched before the step is taken.

Spec: https://spec.matrix.org/v1.19/client-server-api/#syncing
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import orjson

from yizhan_bots.matrix.http import Homeserver, Refusal, Unreachable, path
from yizhan_database import Database, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_bots.matrix.identities import Identities
    from yizhan_bots.matrix.keystore import KeyStore
    from yizhan_bots.matrix.machine import Machine
    from yizhan_bots.matrix.rooms import Room, Rooms

log = logging.getLogger(__name__)

Json = dict[str, Any]

GREETED: Final = "yizhan.greeted"
"""Type of the inbox row that stands for a new person's first direct room; never on the wire."""

POLL_RESPONSES: Final = ("m.poll.response", "org.matrix.msc3381.poll.response")
_WANTED: Final = frozenset(
    {"m.room.encrypted", "m.room.message", "m.reaction", "m.room.redaction", *POLL_RESPONSES}
)
VERIFICATION: Final = "m.key.verification."
_STATE: Final = ("m.room.member", "m.room.encryption")
_TIMELINE: Final = (*_STATE, *_WANTED, f"{VERIFICATION}*")
_FILTER: Final = {
    "presence": {"types": []},
    "account_data": {"types": []},
    "room": {
        "ephemeral": {"types": []},
        "account_data": {"types": []},
        "state": {"types": list(_STATE)},
        "timeline": {"limit": 100, "types": list(_TIMELINE)},
    },
}

LONG_POLL_MS = 30_000
GAP_PAGES = 500
_GAP_PAGE_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Admission:
    """Whose invitations are accepted: of the bot's own server and of the listed ones."""

    own_server: str
    allow_servers: tuple[str, ...]

    def admits(self, user_id: str) -> bool:
        """Whether this person may bring the bot into a room."""
        server = user_id.partition(":")[2]
        return server == self.own_server or any(fnmatchcase(server, p) for p in self.allow_servers)


class Sync:
    """The loop that follows the homeserver."""

    def __init__(
        self,
        *,
        database: Database,
        homeserver: Homeserver,
        own_user_id: str,
        machine: Machine,
        keys: KeyStore,
        identities: Identities,
        rooms: Rooms,
        admission: Admission,
        on_to_device: Callable[[str, str, Json], None],
        on_stored: Callable[[], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._homeserver = homeserver
        self._own = own_user_id
        self._machine = machine
        self._keys = keys
        self._identities = identities
        self._rooms = rooms
        self._admission = admission
        self._on_to_device = on_to_device
        self._on_stored = on_stored
        self._now_ms = now_ms
        self._since: str | None = None
        self._greeted: set[str] = set()
        self._direct_rooms: dict[str, list[str]] | None = None
        self.caught_up = asyncio.Event()
        """Set after the first step of this run."""

    async def load(self) -> None:
        """Read where the last run stopped."""
        row = await self._database.row(
            "SELECT sync_token FROM matrix_account WHERE user_id = ?", self._own
        )
        self._since = None if row is None else row[0]
        greeted = self._database.scan(
            "SELECT user_id FROM matrix_greeted WHERE user_id > ? ORDER BY user_id LIMIT ?",
            after="",
        )
        async for (user_id,) in greeted:
            self._greeted.add(user_id)

    async def run(self) -> None:
        """Follow the homeserver until cancelled; ends by a database failure only."""
        delay = 1.0
        while True:
            try:
                await self.step(LONG_POLL_MS if self.caught_up.is_set() else 0)
                delay = 1.0
            except (Unreachable, Refusal) as error:
                if isinstance(error, Refusal) and error.errcode == "M_UNKNOWN_TOKEN":
                    raise
                log.warning("sync failed", extra={"reason": str(error), "retry_in_s": delay})
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)

    async def step(self, wait_ms: int) -> None:
        """Ask once and store the answer; then do what keeps the keys in order."""
        query = {"timeout": str(wait_ms), "filter": orjson.dumps(_FILTER).decode()}
        if self._since is not None:
            query["since"] = self._since
        answer = await self._homeserver.request(
            "GET", "v3/sync", query=query, seconds=wait_ms / 1000 + 60
        )
        gaps = await self._fetch_gaps(answer)
        tx = Transaction()
        self._take(answer, gaps, tx)
        await self._database.commit(tx)
        self._since = answer["next_batch"]
        self._on_stored()
        try:
            await self._keep_up()
        except (Unreachable, Refusal) as error:
            log.warning("upkeep failed", extra={"reason": str(error)})
        self.caught_up.set()

    # --- what one answer contains; nothing here waits, so that nothing comes in between ---

    def _take(self, answer: Json, gaps: dict[str, list[Json]], tx: Transaction) -> None:
        for event in answer.get("to_device", {}).get("events", ()):
            self._take_to_device(event)
        if (counts := answer.get("device_one_time_keys_count")) is not None:
            self._machine.uploaded_key_count = counts.get("signed_curve25519", 0)
        device_lists = answer.get("device_lists", {})
        self._identities.mark_stale(device_lists.get("changed", ()), tx)
        self._identities.mark_stale(device_lists.get("left", ()), tx)
        if self._since is None:
            tx.execute("UPDATE matrix_identity SET stale = 1")
        for room_id, session_id in self._machine.arrived:
            tx.execute(
                "UPDATE inbox SET state = 'new', due_ms = 0"
                " WHERE room_id = ? AND session_id = ? AND state = 'waiting'",
                room_id,
                session_id,
            )
            tx.execute(
                "DELETE FROM matrix_room_key_request WHERE room_id = ? AND session_id = ?",
                room_id,
                session_id,
            )
            self._machine.asked.pop((room_id, session_id), None)
        if self._machine.arrived:
            tx.after_commit(lambda _: self._note_arrival())
        self._machine.arrived.clear()
        rooms = answer.get("rooms", {})
        for room_id, invited in rooms.get("invite", {}).items():
            self._take_invitation(room_id, invited, tx)
        for room_id in rooms.get("leave", {}):
            self._rooms.leave(room_id, tx)
            tx.execute("DELETE FROM matrix_invite WHERE room_id = ?", room_id)
        for room_id, joined in rooms.get("join", {}).items():
            self._take_room(room_id, joined, gaps.get(room_id, []), tx)
        self._keys.write_into(tx)
        tx.execute(
            "UPDATE matrix_account SET sync_token = ? WHERE user_id = ?",
            answer["next_batch"],
            self._own,
        )

    def _note_arrival(self) -> None:
        self._machine.arrivals += 1

    def _take_to_device(self, event: Json) -> None:
        kind, sender, content = event.get("type"), event.get("sender"), event.get("content")
        if kind == "m.room.encrypted":
            inner = self._machine.take_to_device(event)
            if inner is None:
                return
            sender, kind, content = inner
        if isinstance(kind, str) and isinstance(sender, str) and isinstance(content, dict):
            self._on_to_device(sender, kind, content)

    def _take_invitation(self, room_id: str, invited: Json, tx: Transaction) -> None:
        for event in invited.get("invite_state", {}).get("events", ()):
            if event.get("type") == "m.room.member" and event.get("state_key") == self._own:
                tx.execute(
                    """
                    INSERT INTO matrix_invite (room_id, inviter) VALUES (?, ?)
                    ON CONFLICT (room_id) DO UPDATE SET inviter = excluded.inviter
                    """,
                    room_id,
                    str(event.get("sender", "")),
                )

    def _take_room(self, room_id: str, joined: Json, gap: list[Json], tx: Transaction) -> None:
        is_new = self._rooms.find(room_id) is None
        room = self._rooms.enter(room_id, tx)
        tx.execute("DELETE FROM matrix_invite WHERE room_id = ?", room_id)
        was_encrypted = room.encrypted
        timeline = gap + joined.get("timeline", {}).get("events", [])
        for event in joined.get("state", {}).get("events", []):
            self._rooms.apply_state(room, event, tx)
        for event in timeline:
            if "state_key" in event:
                self._rooms.apply_state(room, event, tx)
                if event.get("type") == "m.room.member":
                    self._identities.mark_stale([str(event["state_key"])], tx)
        if is_new or (room.encrypted and not was_encrypted):
            # Of people not met before the homeserver told us no changes.
            self._identities.mark_stale(room.members, tx)
        if is_new:
            timeline = [] if self._since is None else self._since_our_invitation(timeline)
        for event in timeline:
            self._store(room, event, tx)
        self._greet(room, tx)

    def _since_our_invitation(self, timeline: list[Json]) -> list[Json]:
        # Clients write into a new direct room before the bot has joined it.
        for memberships in ("invite",), ("join",):
            for at in range(len(timeline) - 1, -1, -1):
                event = timeline[at]
                content = event.get("content", {})
                if (
                    event.get("type") == "m.room.member"
                    and event.get("state_key") == self._own
                    and content.get("membership") in memberships
                ):
                    return timeline[at + 1 :]
        return timeline

    def _store(self, room: Room, event: Json, tx: Transaction) -> None:
        kind, sender, content = event.get("type"), event.get("sender"), event.get("content")
        if not isinstance(kind, str) or not isinstance(sender, str) or sender == self._own:
            return
        if "state_key" in event or not isinstance(content, dict) or not content:
            return  # state, malformed, or already redacted
        if kind not in _WANTED and not kind.startswith(VERIFICATION):
            return
        if self._rooms.find_person(room) == sender:
            self._rooms.note_direct(sender, room.room_id, tx)
        session_id = content.get("session_id") if kind == "m.room.encrypted" else None
        self._insert(
            tx,
            event,
            room_id=room.room_id,
            event_id=str(event.get("event_id", "")),
            sender=sender,
            # No session is called by what a database cannot hold.
            session_id=session_id
            if isinstance(session_id, str) and "\0" not in session_id
            else None,
        )

    def _insert(
        self,
        tx: Transaction,
        event: Json,
        *,
        room_id: str,
        event_id: str,
        sender: str,
        session_id: str | None = None,
    ) -> None:
        tx.execute(
            """
            INSERT INTO inbox
              (pos, room_id, event_id, sender, session_id, event, state, received_ms, due_ms,
               attempts)
            VALUES (?, ?, ?, ?, ?, ?, 'new', ?, 0, 0)
            ON CONFLICT (room_id, event_id) DO NOTHING
            """,
            tx.position(),
            room_id,
            event_id,
            sender,
            session_id,
            orjson.dumps(event),
            self._now_ms(),
        )

    def _greet(self, room: Room, tx: Transaction) -> None:
        person = self._rooms.find_person(room)
        if person is None or person in self._greeted or not self._admission.admits(person):
            return
        if room.members[person].membership != "join":
            return
        self._greeted.add(person)
        tx.execute(
            "INSERT INTO matrix_greeted (user_id, at_ms) VALUES (?, ?)"
            " ON CONFLICT (user_id) DO NOTHING",
            person,
            self._now_ms(),
        )
        event = {"type": GREETED, "origin_server_ts": self._now_ms()}
        self._insert(tx, event, room_id=room.room_id, event_id=f"{GREETED}:{person}", sender=person)

    # --- what a limited timeline leaves out ---

    async def _fetch_gaps(self, answer: Json) -> dict[str, list[Json]]:
        gaps = {}
        for room_id, joined in answer.get("rooms", {}).get("join", {}).items():
            timeline = joined.get("timeline", {})
            known = self._rooms.find(room_id) is not None
            if timeline.get("limited") and known and self._since and "prev_batch" in timeline:
                gaps[room_id] = await self._fetch_gap(room_id, timeline["prev_batch"], self._since)
        return gaps

    async def _fetch_gap(self, room_id: str, before: str, since: str) -> list[Json]:
        """The events between the last step and a limited timeline, oldest first."""
        newest_first: list[Json] = []
        where = path("v3", "rooms", room_id, "messages")
        query = {
            "dir": "b",
            "to": since,
            "limit": str(_GAP_PAGE_EVENTS),
            "filter": orjson.dumps({"types": list(_TIMELINE)}).decode(),
        }
        for _ in range(GAP_PAGES):
            try:
                page = await self._homeserver.request("GET", where, query=query | {"from": before})
            except Refusal as refusal:
                if refusal.temporary:
                    raise
                log.warning("gap cannot be read", extra={"room_id": room_id})
                break
            newest_first += page.get("chunk", ())
            end = page.get("end")
            if not isinstance(end, str) or end == before:
                break
            before = end
        else:
            log.error("gap too long", extra={"room_id": room_id, "events": len(newest_first)})
        return newest_first[::-1]

    # --- afterwards ---

    async def _keep_up(self) -> None:
        await self.upload_keys()
        await self._unwedge()
        await self.send_queued()
        await self._answer_invitations()
        await self._publish_direct_rooms()

    async def upload_keys(self) -> None:
        """Upload the device's keys and as many one-time keys as the server lacks."""
        if not self._machine.should_upload_keys:
            return
        keys = self._machine.share_keys()
        self._machine.save_account()
        # The private halves are durable before anybody can use the public ones.
        await self._commit_keys()
        answer = await self._homeserver.request("POST", "v3/keys/upload", keys)
        counts = answer.get("one_time_key_counts", {})
        self._machine.keys_uploaded(counts.get("signed_curve25519", 0))
        await self._commit_keys()

    async def _unwedge(self) -> None:
        if not self._machine.wedged_devices:
            return
        wanted = self._machine.get_users_for_key_claiming()
        body = {
            "one_time_keys": {
                user_id: dict.fromkeys(devices, "signed_curve25519")
                for user_id, devices in wanted.items()
                if devices
            }
        }
        answer = await self._homeserver.request("POST", "v3/keys/claim", body)
        self._machine.take_claimed_keys(answer.get("one_time_keys", {}))
        self._machine.wedged_devices.clear()  # once: the next broken message marks it anew
        await self._commit_keys()

    async def send_queued(self) -> None:
        """Send the to-device messages that the Olm machine has queued."""
        while self._machine.outgoing_to_device_messages:
            message = self._machine.outgoing_to_device_messages[0]
            await self._commit_keys()
            await self._homeserver.request(
                "PUT",
                path("v3", "sendToDevice", message.type, new_txn_id()),
                message.as_dict(),
            )
            self._machine.outgoing_to_device_messages.remove(message)

    async def _answer_invitations(self) -> None:
        rows = await self._database.rows("SELECT room_id, inviter FROM matrix_invite LIMIT 50")
        for room_id, inviter in rows:
            verb = "join" if self._admission.admits(inviter) else "leave"
            try:
                await self._homeserver.request("POST", path("v3", "rooms", room_id, verb), {})
            except Refusal as refusal:
                if refusal.temporary:
                    raise
                log.warning("invitation void", extra={"room_id": room_id, "verb": verb})
            tx = Transaction()
            tx.execute("DELETE FROM matrix_invite WHERE room_id = ?", room_id)
            await self._database.commit(tx)

    async def _publish_direct_rooms(self) -> None:
        direct_rooms = self._rooms.direct_rooms()
        if direct_rooms == self._direct_rooms:
            return
        where = path("v3", "user", self._own, "account_data", "m.direct")
        await self._homeserver.request("PUT", where, dict(direct_rooms))
        self._direct_rooms = direct_rooms

    async def _commit_keys(self) -> None:
        await commit_keys(self._database, self._keys)


async def commit_keys(database: Database, keys: KeyStore) -> None:
    """Make all changes of key material durable."""
    if keys.has_changes:
        tx = Transaction()
        keys.write_into(tx)
        await database.commit(tx)


def new_txn_id() -> str:
    """Return a fresh transaction id."""
    return secrets.token_urlsafe(18)
