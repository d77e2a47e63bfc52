"""Story words for the office bot without Matrix: people who say things and read answers.

    office = await Office.open(database)
    zhang, li = await office.newcomers("张三", "李四")
    await zhang.says("请假 开始=明天 天数=3 事由=探亲 审批人=李四")
    await li.says(f"1 {li.code()}")
    assert "李四" in zhang.reads()[-1]

`Office` does what the runner does with a `Skill`: one event at a time, its rows and nothing
else in one transaction, again when a guard fails, and messages only after the commit. It
holds the skill to its part of the contract (one place per message, edits that find their
message and mention nobody).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from yizhan_bots.conversation import (
    Actor,
    Greeted,
    Incoming,
    PollAnswer,
    PollOption,
    Reaction,
    Redacted,
    Standing,
    Text,
    Trust,
    TrustOutcome,
    Undecryptable,
)
from yizhan_bots.dialogue import Dialogue, open_dialogue
from yizhan_database import GuardFailed, Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_bots.conversation import Answer, Outgoing
    from yizhan_database import Database

START_MS = 1_795_399_200_000
"""Monday, 23 November 2026, 10:00 in China."""
MINUTE_MS = 60_000
Content = Text | PollAnswer | Reaction | Redacted | Greeted | Undecryptable


@dataclass(slots=True)
class Message:
    """A message of the bot's as a client shows it, edits applied."""

    room_id: str
    text: str
    mentions: tuple[str, ...] = ()
    poll: tuple[PollOption, ...] = ()
    key: str | None = None
    thread: str | None = None
    edited: bool = False


@dataclass(slots=True)
class Pins:
    """The runner's side of trust: pinned and published identities, and the administrators."""

    names: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    administrators: set[str] = field(default_factory=set)

    async def is_administrator(self, actor: Actor) -> bool:
        """Listed, with the pinned identity."""
        listed = actor.user_id in self.administrators
        return listed and self.pinned[actor.user_id] == actor.master_key

    async def trust(self, user_id: str, by: Actor, tx: Transaction) -> TrustOutcome:
        """Pin what is published now, once the transaction is durable."""
        if not await self.is_administrator(by) or user_id in self.administrators:
            return TrustOutcome(Trust.REFUSED)
        key = self.published.get(user_id)
        if key is None:
            return TrustOutcome(Trust.NO_IDENTITY)
        if self.pinned.get(user_id) == key:
            return TrustOutcome(Trust.UNCHANGED, grouped(key))
        tx.after_commit(lambda _: self.pinned.__setitem__(user_id, key))
        return TrustOutcome(Trust.PINNED, grouped(key))

    def display_name(self, user_id: str) -> str | None:
        """The name that the person bears."""
        return self.names.get(user_id)


@dataclass(frozen=True, slots=True)
class Judged:
    """What the skill made of one event: rows not yet committed, and the answer."""

    tx: Transaction
    answer: Answer | None


def grouped(key: str) -> str:
    """Return a key in the groups of four that clients show."""
    return " ".join(key[at : at + 4] for at in range(0, len(key), 4))


class Office:
    """One bot, its people and its rooms."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now_ms = START_MS
        self.pins = Pins()
        self.rooms: dict[str, list[Message]] = {}
        self.people: dict[str, Colleague] = {}
        self.skill: Dialogue
        self._numbers = itertools.count(1)

    @classmethod
    async def open(cls, database: Database) -> Office:
        """Open the office with an empty, migrated database of the bots."""
        office = cls(database)
        await office.restart()
        return office

    async def restart(self) -> None:
        """Start the bot anew over the same database."""
        self.skill = await open_dialogue(
            self.database,
            self.pins,
            bot_names=("驿站助手", "@yizhan:office.test"),
            now_ms=lambda: self.now_ms,
        )

    def person(self, name: str, user_id: str | None = None) -> Colleague:
        """Return a colleague who has not spoken to the bot yet."""
        number = next(self._numbers)
        person = Colleague(self, user_id or f"@p{number}:office.test", name)
        self.pins.names[person.user_id] = name
        self.pins.pinned[person.user_id] = person.master_key
        self.pins.published[person.user_id] = person.master_key
        self.people[person.user_id] = person
        return person

    async def newcomers(self, *names: str) -> list[Colleague]:
        """Return colleagues who have opened their direct rooms, read, and said nothing yet."""
        people = [self.person(name) for name in names]
        for person in people:
            await person.greets()
            person.reads()
        return people

    def passes(self, minutes: float) -> None:
        """Let time pass."""
        self.now_ms += round(minutes * MINUTE_MS)

    def event_id(self) -> str:
        """Return a new event id."""
        return f"$event{next(self._numbers)}"

    async def delivers(self, incoming: Incoming, *, crash: bool = False) -> Answer | None:
        """Do with one event what the runner does. `crash`: die before the commit."""
        for _ in range(5):
            judged = await self.judges(incoming)
            if crash or await self.commits(judged):
                return judged.answer
        raise AssertionError("the guards of one event failed five times")

    async def judges(self, incoming: Incoming) -> Judged:
        """Have the skill judge an event, and commit nothing yet."""
        tx = Transaction()
        return Judged(tx, await self.skill.answer(incoming, tx))

    async def commits(self, judged: Judged) -> bool:
        """Commit what was judged and send its messages; False when a guard failed."""
        try:
            await self.database.commit(judged.tx)
        except GuardFailed:
            return False
        for message in judged.answer.messages if judged.answer else ():
            self._send(message)
        return True

    def _send(self, message: Outgoing) -> None:
        assert (message.room_id is None) != (message.direct_to is None)
        room_id = message.room_id or f"!direct:{message.direct_to}"
        room = self.rooms.setdefault(room_id, [])
        assert message.text.strip()
        assert not re.search(r"\{[a-z_]+\}", message.text), f"a placeholder is left: {message.text}"
        if message.edits is not None:
            assert not message.mentions, "an edit mentions somebody"
            edited = next(m for m in room if m.key == message.edits)
            edited.text, edited.edited = message.text, True
            return
        if message.thread is not None:
            assert any(m.key == message.thread for m in room), "a thread under no message"
        room.append(
            Message(
                room_id, message.text, message.mentions, message.poll, message.key, message.thread
            )
        )

    async def record(self) -> list[tuple[str, str, str, str | None]]:
        """Return (matter, standing, detail, request) of everything on the record."""
        rows = await self.database.rows(
            "SELECT matter, standing, detail, request FROM office_record ORDER BY at_ms, event_id"
        )
        return [(matter, standing, detail, request) for matter, standing, detail, request in rows]


@dataclass(slots=True, eq=False)
class Colleague:
    """A person with a direct room with the bot."""

    office: Office
    user_id: str
    name: str
    master_key: str = ""
    seen: int = 0

    def __post_init__(self) -> None:
        self.master_key = self.master_key or f"key of {self.user_id}"

    @property
    def room_id(self) -> str:
        """The direct room."""
        return f"!direct:{self.user_id}"

    @property
    def room(self) -> list[Message]:
        """All messages of the bot in the direct room."""
        return self.office.rooms.setdefault(self.room_id, [])

    def incoming(
        self,
        content: Content,
        *,
        room_id: str | None = None,
        standing: Standing = Standing.VERIFIED,
        encrypted_room: bool = True,
        sent_ms: int | None = None,
        received_ms: int | None = None,
        attached_to: str | None = None,
    ) -> Incoming:
        """Return an event of this person's as the runner would hand it over."""
        actor = Actor(self.user_id, self.master_key, "DEVICE", "ed25519 of the device")
        now_ms = self.office.now_ms
        return Incoming(
            event_id=self.office.event_id(),
            room_id=room_id or self.room_id,
            sender=self.user_id,
            standing=standing,
            actor=actor if standing is Standing.VERIFIED else None,
            content=content,
            direct=room_id is None,
            encrypted_room=encrypted_room,
            sent_ms=now_ms if sent_ms is None else sent_ms,
            received_ms=now_ms if received_ms is None else received_ms,
            digest=sha256(repr(content).encode()).hexdigest(),
            attached_to=attached_to,
        )

    async def says(
        self,
        text: str,
        *,
        room_id: str | None = None,
        mentions: Sequence[str] = (),
        standing: Standing = Standing.VERIFIED,
        encrypted_room: bool = True,
        sent_ms: int | None = None,
        received_ms: int | None = None,
    ) -> Answer | None:
        """Send a text, in the direct room unless another is given."""
        return await self.office.delivers(
            self.incoming(
                Text(text, tuple(mentions)),
                room_id=room_id,
                standing=standing,
                encrypted_room=encrypted_room,
                sent_ms=sent_ms,
                received_ms=received_ms,
            )
        )

    def incoming_text(self, text: str) -> Incoming:
        """Return a text of this person's in the direct room, not yet delivered."""
        return self.incoming(Text(text))

    async def greets(self) -> None:
        """Open the direct room."""
        await self.office.delivers(self.incoming(Greeted(), standing=Standing.UNENCRYPTED))

    async def answers_poll(self, number: int) -> None:
        """Choose the option with that number (from 1) of the latest poll in the direct room."""
        poll = next(message.poll for message in reversed(self.room) if message.poll)
        content = PollAnswer(poll[number - 1].id)
        await self.office.delivers(self.incoming(content))

    async def reacts(self, key: str) -> None:
        """React to the latest message in the direct room."""
        reaction = Reaction("$some-message", key)
        await self.office.delivers(self.incoming(reaction, standing=Standing.UNENCRYPTED))

    def reads(self) -> list[str]:
        """Return the texts that are new in the direct room."""
        new = [message.text for message in self.room[self.seen :]]
        self.seen = len(self.room)
        return new

    def code(self) -> str:
        """Return the code that the latest poll in the direct room carries."""
        poll = next(message.poll for message in reversed(self.room) if message.poll)
        return poll[0].id.partition(":")[0]

    def message(self, prefix: str) -> Message:
        """Return the latest message of the direct room whose key begins so."""
        return next(m for m in reversed(self.room) if m.key and m.key.startswith(prefix))

    def ref(self) -> str:
        """Return the number of the latest request whose card is in the direct room."""
        match = re.search(r"(?:编号|no\.) ([0-9A-Z]{4})", self.message("request:").text)
        assert match is not None
        return match[1]
