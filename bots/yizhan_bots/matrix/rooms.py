"""The rooms that the bot is in: encrypted or not, who is there, which are direct.

Kept in memory and in the database; changed only by the state that /sync delivers, in the same
transaction as the sync token. Encryption once on stays on: a homeserver that hides the state
event later must not make the bot speak in clear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yizhan_database import Database, Transaction

Json = dict[str, Any]

ROTATION_MS = 604_800_000
ROTATION_MESSAGES = 100
_PRESENT = frozenset({"join", "invite"})


@dataclass(slots=True)
class Member:
    """One user's membership, and the name that the room shows."""

    membership: str
    display_name: str | None


@dataclass(slots=True)
class Room:
    """A room that the bot has joined."""

    room_id: str
    encrypted: bool = False
    rotation_ms: int = ROTATION_MS
    rotation_messages: int = ROTATION_MESSAGES
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def present(self) -> set[str]:
        """Those who are joined or invited: whoever gets the room's keys."""
        return {u for u, member in self.members.items() if member.membership in _PRESENT}

    def has_left(self, user_id: str) -> bool:
        """Whether the person was in the room, or invited, and is no more."""
        member = self.members.get(user_id)
        return member is not None and member.membership not in _PRESENT


class Rooms:
    """All rooms that the bot has joined."""

    def __init__(self, database: Database, own_user_id: str) -> None:
        self._database = database
        self._own = own_user_id
        self._rooms: dict[str, Room] = {}
        self._direct: dict[str, str] = {}

    async def load(self) -> None:
        """Read what earlier runs learnt."""
        rooms = self._database.scan(
            "SELECT room_id, encrypted, rotation_ms, rotation_messages FROM matrix_room"
            " WHERE room_id > ? ORDER BY room_id LIMIT ?",
            after="",
        )
        async for room_id, encrypted, rotation_ms, rotation_messages in rooms:
            room = Room(room_id, bool(encrypted), rotation_ms, rotation_messages)
            self._rooms[room_id] = room
            members = self._database.scan(
                "SELECT user_id, membership, display_name FROM matrix_member"
                " WHERE room_id = ? AND user_id > ? ORDER BY user_id LIMIT ?",
                room_id,
                after="",
            )
            async for user_id, membership, display_name in members:
                room.members[user_id] = Member(membership, display_name)
        direct = self._database.scan(
            "SELECT user_id, room_id FROM matrix_direct WHERE user_id > ? ORDER BY user_id LIMIT ?",
            after="",
        )
        async for user_id, room_id in direct:
            self._direct[user_id] = room_id

    def find(self, room_id: str) -> Room | None:
        """The room, if the bot is in it."""
        return self._rooms.get(room_id)

    def enter(self, room_id: str, tx: Transaction) -> Room:
        """Note that the bot is in the room."""
        room = self._rooms.get(room_id)
        if room is None:
            room = self._rooms[room_id] = Room(room_id)
            self._save(room, tx)
        return room

    def leave(self, room_id: str, tx: Transaction) -> None:
        """Note that the bot is not in the room any more."""
        self._rooms.pop(room_id, None)
        tx.execute("DELETE FROM matrix_member WHERE room_id = ?", room_id)
        tx.execute("DELETE FROM matrix_room WHERE room_id = ?", room_id)

    def apply_state(self, room: Room, event: Json, tx: Transaction) -> None:
        """Take over one state event; others than encryption and membership are ignored."""
        content, state_key = event.get("content"), event.get("state_key")
        if not isinstance(content, dict) or not isinstance(state_key, str):
            return
        if event.get("type") == "m.room.encryption" and state_key == "":
            room.encrypted = True
            room.rotation_ms = _lower(content.get("rotation_period_ms"), ROTATION_MS)
            room.rotation_messages = _lower(content.get("rotation_period_msgs"), ROTATION_MESSAGES)
            self._save(room, tx)
        elif event.get("type") == "m.room.member":
            membership, name = content.get("membership"), content.get("displayname")
            if not isinstance(membership, str):
                return
            # A name may hold what one of our databases cannot: it must not stop everything else.
            shown = name.replace("\0", "") if isinstance(name, str) else None
            member = Member(membership, shown)
            room.members[state_key] = member
            tx.execute(
                """
                INSERT INTO matrix_member (room_id, user_id, membership, display_name)
                VALUES (?, ?, ?, ?)
                ON CONFLICT (room_id, user_id) DO UPDATE SET
                  membership = excluded.membership, display_name = excluded.display_name
                """,
                room.room_id,
                state_key,
                member.membership,
                member.display_name,
            )

    def find_person(self, room: Room) -> str | None:
        """Whom the room is direct with: the one other user, in an encrypted room of two."""
        others = room.present - {self._own}
        return next(iter(others)) if room.encrypted and len(others) == 1 else None

    def find_direct_room(self, user_id: str) -> Room | None:
        """The encrypted room with this person alone: where they last wrote, if there are several.

        One to which the person is only invited is taken when there is no other.
        """
        rooms = [room for room in self._rooms.values() if self.find_person(room) == user_id]
        usual = self._direct.get(user_id)
        rooms.sort(
            key=lambda room: (room.members[user_id].membership == "join", room.room_id == usual)
        )
        return rooms[-1] if rooms else None

    def note_direct(self, user_id: str, room_id: str, tx: Transaction) -> None:
        """Note that the person wrote in this direct room."""
        if self._direct.get(user_id) == room_id:
            return
        self._direct[user_id] = room_id
        tx.execute(
            """
            INSERT INTO matrix_direct (user_id, room_id) VALUES (?, ?)
            ON CONFLICT (user_id) DO UPDATE SET room_id = excluded.room_id
            """,
            user_id,
            room_id,
        )

    def direct_rooms(self) -> dict[str, list[str]]:
        """All direct rooms by person: the content of `m.direct`."""
        found: dict[str, list[str]] = {}
        for room in self._rooms.values():
            person = self.find_person(room)
            if person is not None:
                found.setdefault(person, []).append(room.room_id)
        return found

    def is_met(self, user_id: str) -> bool:
        """Whether the person is joined to an encrypted room of ours.

        Only of such people's devices does the homeserver say when they change.
        """
        return any(
            room.encrypted and (m := room.members.get(user_id)) and m.membership == "join"
            for room in self._rooms.values()
        )

    def display_name(self, user_id: str) -> str | None:
        """The name that the person bears in some room of ours."""
        for room in self._rooms.values():
            member = room.members.get(user_id)
            if member is not None and member.membership == "join" and member.display_name:
                return member.display_name
        return None

    def _save(self, room: Room, tx: Transaction) -> None:
        tx.execute(
            """
            INSERT INTO matrix_room (room_id, encrypted, rotation_ms, rotation_messages)
            VALUES (?, ?, ?, ?)
            ON CONFLICT (room_id) DO UPDATE SET encrypted = excluded.encrypted,
              rotation_ms = excluded.rotation_ms, rotation_messages = excluded.rotation_messages
            """,
            room.room_id,
            int(room.encrypted),
            room.rotation_ms,
            room.rotation_messages,
        )


def _lower(value: object, most: int) -> int:
    # A room may ask for more frequent rotation, not for less.
    return max(1, min(value, most)) if isinstance(value, int) else most
