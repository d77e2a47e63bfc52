"""What the bot remembers of each person: language, the open question, what was said once.

An open question lasts an hour: a "1" on the next day must not answer what has been forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from yizhan_bots.approvals.forms import Value

from .commands import Verb

if TYPE_CHECKING:
    from yizhan_bots.conversation import Incoming
    from yizhan_bots.wording import Language
    from yizhan_database import Database, Transaction

QUESTION_LASTS_MS = 3_600_000


class Filling(msgspec.Struct, tag=True):
    """A form being filled in, one question at a time."""

    form: str
    asked_ms: int
    values: dict[str, Value] = {}
    approver: str | None = None
    asking: str = ""
    """A field's name, `approver` or `confirm`; empty before the first question."""
    shown: list[str] = []
    """The people that were offered by number."""


class ChoosingRequest(msgspec.Struct, tag=True):
    """A list of requests was shown, and one is to be chosen by number."""

    verb: Verb
    """`SHOW`, `WITHDRAW` or `URGE`."""
    shown: list[str]
    asked_ms: int


class ChoosingLanguage(msgspec.Struct, tag=True):
    """The two languages were offered."""

    asked_ms: int


class NamingMember(msgspec.Struct, tag=True):
    """An administrator was asked in whom trust is to be restored."""

    asked_ms: int


Question = Filling | ChoosingRequest | ChoosingLanguage | NamingMember


class Memory(msgspec.Struct, omit_defaults=True):
    """What is remembered between two messages of a person."""

    question: Question | None = None
    unknowns: int = 0
    """How many messages in a row were not understood."""
    told_unreadable: bool = False
    """Told that a message could not be decrypted, and nothing readable has come since."""
    told_reaction: bool = False
    """Told that reactions do not decide."""


@dataclass(slots=True)
class Person:
    """One row: what is remembered of a person, changed in place and then saved."""

    user_id: str
    language: Language | None = None
    """As chosen, or heard first; None until then."""
    greeted_ms: int | None = None
    memory: Memory = field(default_factory=Memory)
    rev: int = 0
    stored: tuple[str | None, int | None, str] | None = None

    def save(self, tx: Transaction) -> None:
        """Record what has changed, guarded by the revision that was read."""
        memory = msgspec.json.encode(self.memory).decode()
        if (self.language, self.greeted_ms, memory) == self.stored:
            return
        if self.rev == 0:
            tx.guard(
                """
                INSERT INTO dialogue_person (user_id, language, greeted_ms, memory, rev)
                VALUES (?, ?, ?, ?, 1) ON CONFLICT DO NOTHING
                """,
                self.user_id,
                self.language,
                self.greeted_ms,
                memory,
            )
        else:
            tx.guard(
                """
                UPDATE dialogue_person SET language = ?, greeted_ms = ?, memory = ?, rev = rev + 1
                WHERE user_id = ? AND rev = ?
                """,
                self.language,
                self.greeted_ms,
                memory,
                self.user_id,
                self.rev,
            )


async def get_person(db: Database, user_id: str) -> Person:
    """Return what is remembered of a person; an empty memory for a stranger."""
    row = await db.row(
        "SELECT language, greeted_ms, memory, rev FROM dialogue_person WHERE user_id = ?", user_id
    )
    if row is None:
        return Person(user_id)
    language, greeted_ms, memory, rev = row
    return Person(
        user_id,
        language,
        greeted_ms,
        msgspec.json.decode(memory, type=Memory),
        rev,
        (language, greeted_ms, memory),
    )


async def find_language(db: Database, user_id: str) -> Language | None:
    """Return the language that a person chose or first spoke."""
    row = await db.row("SELECT language FROM dialogue_person WHERE user_id = ?", user_id)
    return None if row is None else row[0]


async def people_who_greeted(db: Database) -> list[str]:
    """Return the ids of all who have opened a direct room with the bot."""
    rows = await db.rows(
        "SELECT user_id FROM dialogue_person WHERE greeted_ms IS NOT NULL ORDER BY greeted_ms"
    )
    return [row[0] for row in rows]


def record_matter(
    tx: Transaction,
    incoming: Incoming,
    matter: Literal["refused", "repeated", "late", "redirected", "reaction", "redaction", "trust"],
    at_ms: int,
    *,
    detail: str,
    request: str | None = None,
) -> None:
    """Put on the record what was refused or had no effect, and who was trusted again."""
    actor = incoming.actor
    tx.execute(
        """
        INSERT INTO office_record (room_id, event_id, matter, at_ms, sender, standing,
            actor, master_key, device_id, digest, request, detail)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
        """,
        incoming.room_id,
        incoming.event_id,
        matter,
        at_ms,
        incoming.sender,
        incoming.standing.value,
        actor.user_id if actor else None,
        actor.master_key if actor else None,
        actor.device_id if actor else None,
        incoming.digest,
        request,
        detail,
    )


async def irregularities_of(db: Database, request: str) -> list[tuple[int, str, str, str]]:
    """Return (time, sender, matter, detail) of what went amiss with a request; at most 50.

    That is what was refused or came late, and decisions shown under another task's card.
    """
    rows = await db.rows(
        """
        SELECT at_ms, sender, matter, detail FROM office_record
        WHERE request = ? AND matter IN ('refused', 'late', 'redirected') ORDER BY at_ms LIMIT 50
        """,
        request,
    )
    return [(at_ms, sender, matter, detail) for at_ms, sender, matter, detail in rows]
