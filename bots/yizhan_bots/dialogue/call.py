"""One message being answered, with what the answer needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from yizhan_bots.approvals.cards import Reader
from yizhan_bots.conversation import Outgoing

from .memory import find_language, record_matter

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date, tzinfo
    from typing import Literal

    from yizhan_bots.approvals.desk import Desk, Witness
    from yizhan_bots.approvals.events import Request
    from yizhan_bots.conversation import Incoming, People
    from yizhan_bots.wording import Language, Sentence
    from yizhan_database import Database, Transaction

    from .memory import Person

LATE_AFTER_MS = 600_000
"""A message ten minutes old is shown for confirmation and not carried out."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for every message."""

    db: Database
    desk: Desk
    people: People
    now_ms: Callable[[], int]
    zone: tzinfo

    def reader(self, language: Language | None) -> Reader:
        """Return how somebody reads; Chinese for who has not said otherwise."""
        return Reader(language or "zh", self.people.display_name, self.zone)

    async def reader_of(self, user_id: str) -> Reader:
        """Return how a person reads."""
        return self.reader(await find_language(self.db, user_id))

    def late_minutes(self, incoming: Incoming) -> int:
        """Return how late a message is, 0 when it is in time.

        Its age is the greater of two: since the bot received it (it was down, or waited for
        the key) and since the homeserver says that it was sent. The second is a claim. A
        homeserver that delays a decision and lies about its time gains nothing but time:
        the code inside still names one task with one content, and takes effect only while
        that task is open and unchanged. That is as far as anybody can know who has no other
        clock; it is what an approver who signs a paper and hands it to a slow messenger has.
        """
        age = self.now_ms() - min(incoming.sent_ms, incoming.received_ms)
        return age // 60_000 if age > LATE_AFTER_MS else 0


@dataclass(slots=True)
class Call:
    """A message from somebody who may be held to it."""

    around: Surroundings
    incoming: Incoming
    witness: Witness
    person: Person
    tx: Transaction
    text: str = ""
    mentions: tuple[str, ...] = ()
    messages: list[Outgoing] = field(default_factory=list)

    @property
    def user_id(self) -> str:
        """The person: the identity that encrypted the message, not what `sender` says."""
        return self.witness.actor.user_id

    @property
    def reader(self) -> Reader:
        """How the person reads."""
        return self.around.reader(self.person.language)

    @property
    def language(self) -> Language:
        """The person's language."""
        return self.reader.language

    def say(self, sentence: Sentence, **values: object) -> str:
        """Return a sentence in the person's language."""
        return sentence(self.language, **values)

    def reply(self, text: str) -> None:
        """Answer in the room where the message came from."""
        replies_to = None if self.incoming.direct else self.incoming.event_id
        self.send(Outgoing(text, room_id=self.incoming.room_id, replies_to=replies_to))

    def ask(self, text: str) -> None:
        """Ask the person something, in the direct room: that is where answers are read."""
        if self.incoming.direct:
            self.reply(text)
        else:
            self.send(Outgoing(text, direct_to=self.user_id))

    def send(self, message: Outgoing) -> None:
        """Send a message with the answer."""
        self.messages.append(message)

    def record(
        self,
        matter: Literal["refused", "repeated", "late", "redirected", "trust"],
        detail: str,
        request: Request | None = None,
    ) -> None:
        """Put something about this message on the record."""
        record_matter(
            self.tx,
            self.incoming,
            matter,
            self.around.now_ms(),
            detail=detail,
            request=request.id if request else None,
        )

    def today(self) -> date:
        """Return the day on which the message was written, so that 明天 before midnight stays so.

        What the homeserver says is believed within the time after which a message is late.
        """
        now = self.around.now_ms()
        written = min(now, max(self.incoming.sent_ms, now - LATE_AFTER_MS))
        return datetime.fromtimestamp(written / 1000, self.around.zone).date()
