"""What the runner hands to a skill and what a skill hands back. Pure values, no matrix-nio.

The runner (which alone knows Matrix) turns each decrypted, durable inbox row into one
`Incoming`; a skill judges it, records what changed in the given `Transaction` and returns
the messages to send. The runner commits the skill's rows, the outgoing messages and the
mark "this inbox row is done" in *one* transaction, so that a crash neither loses nor
doubles a command or its answer.

How the two sides meet: the runner awaits `yizhan_bots.dialogue.open_dialogue(database, people)`,
which returns the one `Skill` that knows all others. Both sides number their tables in
`yizhan_bots/storage/migrations/` (0001 is the runner's, 0002 and later the skills').
Incoming events arrive one at a time, in the order in which the runner stored them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from yizhan_database import Transaction


class Standing(Enum):
    """How far the author of an incoming event is known. Only `VERIFIED` may decide."""

    VERIFIED = "verified"
    """Encrypted by a session received over Olm from a device that a pinned identity signed."""
    UNENCRYPTED = "unencrypted"
    """Sent in clear, or unreadable: the homeserver could have written it. Reactions,
    redactions, `Greeted` and `Undecryptable` always stand so."""
    UNSIGNED_DEVICE = "unsigned_device"
    """The sending device is not signed by its owner's cross-signing identity.

    What answers this standing or `IDENTITY_CHANGED` in the direct room is readable by every
    device that the homeserver lists for the person, so it must be free of secrets."""
    IDENTITY_CHANGED = "identity_changed"
    """The cross-signing identity is not the one pinned earlier; an administrator restores it."""
    SECOND_HAND_KEY = "second_hand_key"
    """The session was forwarded, imported or backed up: it may be read but names nobody."""
    SENDER_MISMATCH = "sender_mismatch"
    """The session belongs to somebody else than `sender`: the homeserver re-attributed it."""
    REPLAYED = "replayed"
    """The same (session, message index) was seen before under another event id."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The cross-signed identity whose session encrypted a command."""

    user_id: str
    master_key: str
    """Unpadded base64 Ed25519 master key, as pinned."""
    device_id: str
    device_ed25519: str


@dataclass(frozen=True, slots=True)
class Text:
    """A text message: `body` with any reply fallback removed."""

    body: str
    mentions: tuple[str, ...] = ()
    replies_to: str | None = None
    """Event id; cleartext in encrypted rooms, so a hint for wording, never for deciding."""


@dataclass(frozen=True, slots=True)
class PollAnswer:
    """The encrypted answer of a poll; `answer` is the answer id (it carries the code)."""

    answer: str


@dataclass(frozen=True, slots=True)
class Reaction:
    """An unencrypted annotation. Never decides anything (a homeserver can forge it)."""

    target: str
    key: str


@dataclass(frozen=True, slots=True)
class Redacted:
    """An event of the sender's was redacted. `before_execution`: the command has not run yet."""

    target: str
    before_execution: bool


@dataclass(frozen=True, slots=True)
class Greeted:
    """A person has just opened an encrypted direct room with the bot for the first time."""


@dataclass(frozen=True, slots=True)
class Undecryptable:
    """Still unreadable after key request and retry; answered with one sentence, once."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One event, as far as it could be established who said what."""

    event_id: str
    room_id: str
    sender: str
    standing: Standing
    actor: Actor | None
    """Set exactly when `standing` is `VERIFIED`."""
    content: Text | PollAnswer | Reaction | Redacted | Greeted | Undecryptable
    direct: bool
    """Only the person and the bot are in the room."""
    encrypted_room: bool
    sent_ms: int
    """The homeserver's claim (`origin_server_ts`)."""
    received_ms: int
    digest: str = ""
    """sha256 hex of the decrypted content's canonical JSON, for the record."""
    attached_to: str | None = None
    """The `Outgoing.key` of our message that this one is shown to answer (a reply, a poll).

    The relation stands outside the ciphertext, where the homeserver may change it: it goes on
    the record and decides nothing."""


@dataclass(frozen=True, slots=True)
class PollOption:
    """One answer of a poll; `id` comes back encrypted as `PollAnswer.answer`."""

    id: str
    label: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send, complete as text for clients without polls, threads or edits."""

    text: str
    room_id: str | None = None
    """Where; exactly one of `room_id` and `direct_to` is set."""
    direct_to: str | None = None
    """The person's encrypted direct room (made when there is none)."""
    mentions: tuple[str, ...] = ()
    """Exactly those who must act: sent as m.text when set, else as m.notice."""
    html: str | None = None
    poll: tuple[PollOption, ...] = ()
    """When set, a poll follows the text (question = first line of the text)."""
    key: str | None = None
    """A name for this message within its room, to `edits` or thread under later."""
    edits: str | None = None
    """`key` of an earlier message of ours that this replaces; edits mention nobody."""
    thread: str | None = None
    """`key` of the earlier message of ours whose thread this belongs in."""
    replies_to: str | None = None
    """Event id of the message that this answers."""


@dataclass(slots=True)
class Answer:
    """What a skill wants: rows in the transaction it was given, and these messages."""

    messages: list[Outgoing] = field(default_factory=list)


class Skill(Protocol):
    """One ability of the bot (approvals, later documents, calendar ...)."""

    async def answer(self, incoming: Incoming, tx: Transaction) -> Answer | None:
        """Judge one event; None when it is not for this skill. Reads before, writes into `tx`."""
        ...


class Trust(Enum):
    """What became of a wish to trust a person's present cross-signing identity."""

    PINNED = "pinned"
    """The identity that the homeserver shows now is pinned, and that is on the record."""
    UNCHANGED = "unchanged"
    """It was the pinned one already."""
    NO_IDENTITY = "no_identity"
    """The person has no (valid) cross-signing identity, or the server did not answer."""
    REFUSED = "refused"
    """`by` is no administrator, or the person is one: those are restored on the machine only."""


@dataclass(frozen=True, slots=True)
class TrustOutcome:
    """The result of `People.trust`."""

    trust: Trust
    fingerprint: str = ""
    """The identity now pinned, in the groups of four that clients show."""


class People(Protocol):
    """What a skill may ask the runner about persons."""

    async def is_administrator(self, actor: Actor) -> bool:
        """Listed in `bots.administrators`, with the identity that was pinned on the machine."""
        ...

    async def trust(self, user_id: str, by: Actor, tx: Transaction) -> TrustOutcome:
        """Pin the person's present identity on the word of administrator `by` (`!成员 信任`)."""
        ...

    def display_name(self, user_id: str) -> str | None:
        """The name that the person bears in a room shared with the bot."""
        ...
