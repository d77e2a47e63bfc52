"""The one skill that the runner talks to: who may be heard, and what the message is.

In this order: events that are not messages; messages that are not for the bot; messages that
nobody can be held to (refused, on the record); decisions; late commands; the answer to an open
question; commands; and at last what was not understood.

What is not understood: the first time in a row the two nearest commands are named, the second
time one short hint, and after that nothing until something is understood. Two programs that
misunderstand one another must fall silent, and a person has been told twice where the menu is.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from yizhan_bots.approvals.cards import CHINA
from yizhan_bots.approvals.desk import Desk, access_witness
from yizhan_bots.approvals.storage import open_secret
from yizhan_bots.conversation import (
    Answer,
    Greeted,
    Incoming,
    Outgoing,
    PollAnswer,
    Reaction,
    Redacted,
    Standing,
    Text,
    Undecryptable,
)
from yizhan_bots.wording import approvals as approval_wording
from yizhan_bots.wording import dialogue as wording
from yizhan_bots.wording.values import clean_line, fold

from .call import Call, Surroundings
from .commands import CHANGING, COMMANDS, Command, Verb, command_numbered, match_command
from .commands import nearest_commands as nearest
from .deciding import decide
from .filling import answer_question, form_keys, start_form, why_not
from .grammar import (
    Decision,
    is_bare_verdict,
    is_nearly_decision,
    parse_assignments,
    parse_decision,
    parse_number,
    parse_poll_answer,
    strip_address,
)
from .members import trust_member
from .memory import (
    QUESTION_LASTS_MS,
    ChoosingLanguage,
    ChoosingRequest,
    Filling,
    NamingMember,
    Question,
    get_person,
    record_matter,
)
from .requests import act_on, choose, list_mine, list_todo, tell_statistics
from .tutorial import tutorial

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from yizhan_bots.conversation import People
    from yizhan_bots.wording import Language
    from yizhan_database import Database, Transaction

MAX_MESSAGE = 4000
"""Characters of a message that are read; ten times what any answer may hold."""
_CJK = re.compile(r"[\u3400-\u9fff]")
_LANGUAGES: dict[str, Language] = {
    "1": "zh", "zh": "zh", "中文": "zh", "汉语": "zh", "chinese": "zh",
    "2": "en", "en": "en", "english": "en", "英文": "en", "英语": "en",
}  # fmt: skip
_APPROVING_REACTIONS = frozenset("✅✔👍👌🆗❌✖👎")


async def open_dialogue(
    database: Database,
    people: People,
    *,
    bot_names: tuple[str, ...] = ("驿站助手",),
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    zone: tzinfo = CHINA,
) -> Dialogue:
    """Return the skill that knows all others.

    `bot_names`: the names and user id by which a person may address the bot in a group.
    The database must have the migrations of `yizhan_bots.storage`.
    """
    desk = Desk(database, await open_secret(database), now_ms)
    return Dialogue(Surroundings(database, desk, people, now_ms, zone), bot_names)


class Dialogue:
    """Answers one event at a time. When a commit fails with GuardFailed, ask again."""

    def __init__(self, around: Surroundings, bot_names: tuple[str, ...]) -> None:
        self._around = around
        self._bot_names = bot_names

    async def answer(self, incoming: Incoming, tx: Transaction) -> Answer | None:
        """Judge one event; None when it is not for the bot."""
        match incoming.content:
            case Text(body, mentions):
                return await self._answer_text(incoming, body, mentions, tx)
            case PollAnswer(chosen):
                decision = parse_poll_answer(chosen)
                if decision is None:
                    return None
                return await self._answer_decision(incoming, decision, tx)
            case Reaction():
                return await self._note_reaction(incoming, incoming.content, tx)
            case Redacted(_, before_execution):
                detail = "before execution" if before_execution else "after execution"
                record_matter(tx, incoming, "redaction", self._around.now_ms(), detail=detail)
                return Answer()
            case Greeted():
                return await self._greet(incoming, tx)
            case Undecryptable():
                return await self._tell_unreadable(incoming, tx)

    # Events that are not messages.

    async def _note_reaction(
        self, incoming: Incoming, reaction: Reaction, tx: Transaction
    ) -> Answer:
        """Put a reaction on the record. It decides nothing: the homeserver can forge it."""
        key = clean_line(reaction.key)[:40]
        record_matter(tx, incoming, "reaction", self._around.now_ms(), detail=key)
        answer = Answer()
        person = await get_person(self._around.db, incoming.sender)
        meant = incoming.direct and incoming.encrypted_room and key[:1] in _APPROVING_REACTIONS
        if meant and not person.memory.told_reaction:
            person.memory.told_reaction = True
            person.save(tx)
            text = self._around.reader(person.language).say(wording.REACTION_HINT)
            answer.messages.append(Outgoing(text, room_id=incoming.room_id))
        return answer

    async def _greet(self, incoming: Incoming, tx: Transaction) -> Answer:
        person = await get_person(self._around.db, incoming.sender)
        reader = self._around.reader(person.language)
        if not incoming.encrypted_room:
            return Answer([Outgoing(reader.say(wording.ROOM_UNENCRYPTED), incoming.room_id)])
        if person.greeted_ms is None:
            person.greeted_ms = self._around.now_ms()
            person.save(tx)
        desk = self._around.desk
        return Answer(await tutorial(desk, tx, incoming.sender, incoming.room_id, reader))

    async def _tell_unreadable(self, incoming: Incoming, tx: Transaction) -> Answer:
        """Say once that something could not be read, until something readable has come."""
        person = await get_person(self._around.db, incoming.sender)
        if person.memory.told_unreadable:
            return Answer()
        person.memory.told_unreadable = True
        person.save(tx)
        text = self._around.reader(person.language).say(wording.UNREADABLE)
        return Answer([Outgoing(text, room_id=incoming.room_id, replies_to=incoming.event_id)])

    # Messages.

    async def _answer_text(
        self, incoming: Incoming, body: str, mentions: tuple[str, ...], tx: Transaction
    ) -> Answer | None:
        text, addressed = strip_address(_plain(body), self._bot_names)
        decision = parse_decision(text)
        known = decision is not None and await self._names_task(decision)
        if not (incoming.direct or addressed or known):
            return None
        witness = access_witness(incoming)
        if witness is None:
            return await self._refuse(incoming, text, decision, tx)
        person = await get_person(self._around.db, witness.actor.user_id)
        call = Call(self._around, incoming, witness, person, tx, text, mentions)
        self._hear(call)
        question = self._open_question(call) if not addressed else None
        if decision is not None and (known or question is None):
            person.memory.unknowns = 0
            await decide(call, decision)
        else:
            await self._converse(call, question)
        person.save(tx)
        return Answer(call.messages)

    async def _answer_decision(
        self, incoming: Incoming, decision: Decision, tx: Transaction
    ) -> Answer:
        witness = access_witness(incoming)
        if witness is None:
            return await self._refuse(incoming, "", decision, tx)
        person = await get_person(self._around.db, witness.actor.user_id)
        call = Call(self._around, incoming, witness, person, tx)
        await decide(call, decision)
        return Answer(call.messages)

    async def _names_task(self, decision: Decision) -> bool:
        return await self._around.desk.find_task(decision.code) is not None

    async def _refuse(
        self, incoming: Incoming, text: str, decision: Decision | None, tx: Transaction
    ) -> Answer:
        """Answer a message that nobody can be held to: how to mend it, and the help.

        The answer is free of secrets: it may be read by whoever wrote in the person's name.
        """
        person = await get_person(self._around.db, incoming.sender)
        reader = self._around.reader(person.language)
        standing = incoming.standing
        if standing is Standing.VERIFIED:
            # The runner vouches for the key, but the room is in clear or the names differ.
            mismatch = incoming.actor is not None and incoming.actor.user_id != incoming.sender
            standing = Standing.SENDER_MISMATCH if mismatch else Standing.UNENCRYPTED
        request: str | None = None
        if decision is not None:
            found = await self._around.desk.find_task(decision.code)
            request = found[0].id if found else None
        record_matter(
            tx,
            incoming,
            "refused",
            self._around.now_ms(),
            detail=standing.value,
            request=request,
        )
        if not incoming.encrypted_room:
            reply = reader.say(wording.ROOM_UNENCRYPTED)
        else:
            reply = reader.say(wording.STANDINGS[standing.value], sender=incoming.sender)
        command = match_command(text)
        if command is not None and command[0].verb in {Verb.HELP, Verb.HELLO}:
            reply += "\n\n" + help_text(reader.language, administrator=False)
        return Answer([Outgoing(reply, room_id=incoming.room_id, replies_to=incoming.event_id)])

    def _hear(self, call: Call) -> None:
        """Note what a readable message from a person says about them."""
        person = call.person
        person.memory.told_unreadable = False
        if call.incoming.direct and person.greeted_ms is None:
            person.greeted_ms = self._around.now_ms()
        if person.language is None:
            matched = match_command(call.text)
            # "hi" says nothing: people write it in any language.
            command = matched is not None and matched[0].verb is not Verb.HELLO
            if _CJK.search(call.text):
                person.language = "zh"
            elif command or (parse_decision(call.text) and call.text[0].isalpha()):
                person.language = "en"

    def _open_question(self, call: Call) -> Question | None:
        """Return the question that this message may answer; only the direct room answers."""
        question = call.person.memory.question
        if question is None or not call.incoming.direct:
            return None
        if self._around.now_ms() - question.asked_ms > QUESTION_LASTS_MS:
            call.person.memory.question = None
            return None
        return question

    async def _converse(self, call: Call, question: Question | None) -> None:
        command = self._find_command(call)
        minutes = self._around.late_minutes(call.incoming)
        if minutes and (question is not None or (command and command[0].verb in CHANGING)):
            call.record("late", "late")
            call.reply(call.say(wording.LATE, minutes=minutes, text=call.text[:100]))
            return
        if question is not None and not _is_leaving(command):
            if await _answer(call, question):
                call.person.memory.unknowns = 0
                return
            if isinstance(question, Filling) and parse_number(call.text) is not None:
                # A number that does not answer the question must not start something else.
                command = None
        if command is not None:
            call.person.memory.unknowns = 0
            await self._run(call, *command)
        elif isinstance(question, Filling):
            call.reply(await why_not(call, question))
        elif is_bare_verdict(call.text) or is_nearly_decision(call.text):
            self._ask_for_code(call)
        else:
            self._not_understood(call)

    def _find_command(self, call: Call) -> tuple[Command, str] | None:
        number = parse_number(call.text) if call.incoming.direct else None
        if number is not None:
            command = command_numbered(number)
            return None if command is None else (command, "")
        return match_command(call.text)

    def _ask_for_code(self, call: Call) -> None:
        nearly = is_nearly_decision(call.text)
        call.reply(
            call.say(approval_wording.CODE_MALFORMED if nearly else approval_wording.CODE_NEEDED)
        )

    def _not_understood(self, call: Call) -> None:
        call.person.memory.unknowns += 1
        if call.person.memory.unknowns == 1:
            first, second = nearest(call.text, call.language)
            text = " ".join(call.text.split())[:40]
            call.reply(call.say(wording.SUGGESTIONS, text=text, first=first, second=second))
        elif call.person.memory.unknowns == 2:
            call.reply(call.say(wording.SHORT_HINT))

    async def _run(self, call: Call, command: Command, rest: str) -> None:
        if command.verb is not Verb.CANCEL:
            dropped = isinstance(call.person.memory.question, Filling) and call.incoming.direct
            if dropped and command.verb is not Verb.FORM:
                call.reply(call.say(wording.CANCELLED))
            call.person.memory.question = None
        match command.verb:
            case Verb.FORM:
                assert command.form is not None
                await start_form(call, command.form, rest)
            case Verb.TODO:
                await list_todo(call)
            case Verb.MINE:
                await list_mine(call)
            case Verb.SHOW | Verb.WITHDRAW | Verb.URGE:
                await act_on(call, command.verb, rest)
            case Verb.STATISTICS:
                await tell_statistics(call)
            case Verb.TRUST:
                await trust_member(call, rest)
            case Verb.TUTORIAL:
                await self._teach(call)
            case Verb.LANGUAGE:
                _set_language(call, rest)
            case Verb.CANCEL:
                _cancel(call)
            case Verb.HELP | Verb.NEW | Verb.HELLO:
                await self._help(call, command.verb)

    async def _help(self, call: Call, verb: Verb) -> None:
        administrator = await self._around.people.is_administrator(call.witness.actor)
        text = help_text(call.language, administrator=administrator)
        call.reply(f"{call.say(wording.HELLO)}{text}" if verb is Verb.HELLO else text)

    async def _teach(self, call: Call) -> None:
        if not call.incoming.direct:
            call.reply(call.say(wording.CONTINUED_DIRECTLY))
        room_id = call.incoming.room_id if call.incoming.direct else None
        desk = self._around.desk
        call.messages += await tutorial(desk, call.tx, call.user_id, room_id, call.reader)


def _plain(body: str) -> str:
    """Return what was written without what no database keeps, cut to `MAX_MESSAGE`."""
    return body[:MAX_MESSAGE].replace("\0", " ").encode(errors="replace").decode()


def _is_leaving(command: tuple[Command, str] | None) -> bool:
    """Say whether the message leaves any question, even one that free text answers.

    That is a way out, or a form with answers of its own.
    """
    if command is None:
        return False
    form = command[0].form
    if form is not None:
        return bool(parse_assignments(command[1], form_keys(form)).values)
    return command[0].verb in {Verb.CANCEL, Verb.HELP} and not command[1]


async def _answer(call: Call, question: Question) -> bool:
    """Take the message as the answer to the open question; False when it is none."""
    match question:
        case Filling():
            return await answer_question(call, question)
        case ChoosingRequest():
            return await choose(call, question)
        case ChoosingLanguage():
            if fold(call.text).strip(" .。") not in _LANGUAGES:
                return False
            call.person.memory.question = None
            _set_language(call, call.text)
            return True
        case NamingMember():
            if not fold(call.text).startswith("@"):
                return False
            call.person.memory.question = None
            await trust_member(call, call.text)
            return True


def _set_language(call: Call, text: str) -> None:
    language = _LANGUAGES.get(fold(text).strip(" .。"))
    if language is None:
        call.person.memory.question = ChoosingLanguage(call.around.now_ms())
        call.ask(call.say(wording.WHICH_LANGUAGE))
        return
    call.person.language = language
    call.reply(call.say(wording.LANGUAGE_SET))


def _cancel(call: Call) -> None:
    open_question = call.person.memory.question
    call.person.memory.question = None
    call.reply(call.say(wording.CANCELLED if open_question else wording.NOTHING_TO_CANCEL))


def help_text(language: Language, *, administrator: bool) -> str:
    """Return the menu, in which every number is a command."""
    lines = [wording.MENU_TITLE(language)]
    lines += [
        wording.MENU_ITEM(language, number=command.number, label=command.label(language))
        for command in COMMANDS
        if command.number is not None and (administrator or not command.administrators)
    ]
    lines.append(wording.MENU_HOW(language))
    return "\n".join(lines)
