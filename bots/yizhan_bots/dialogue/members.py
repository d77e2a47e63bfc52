"""`!成员 信任 @user`: an administrator restores a person whose cross-signing identity changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_bots.conversation import Outgoing, Trust
from yizhan_bots.wording import dialogue as wording

from .filling import people_named
from .grammar import find_mxid
from .memory import NamingMember, people_who_greeted

if TYPE_CHECKING:
    from .call import Call


async def trust_member(call: Call, text: str) -> None:
    """Restore trust in the person that the text names; ask for one when it names none."""
    if not await call.around.people.is_administrator(call.witness.actor):
        call.record("refused", "not_administrator")
        call.reply(call.say(wording.TRUST_NOT_ADMINISTRATOR))
        return
    if not text:
        call.person.memory.question = NamingMember(call.around.now_ms())
        call.ask(call.say(wording.TRUST_WHOM))
        return
    found = await _members(call, text)
    if len(found) != 1:
        sentence = wording.APPROVER_AMBIGUOUS if found else wording.TRUST_WHOM
        call.reply(call.say(sentence, text=text[:40], people=" ".join(found)))
        return
    await _trust(call, found[0])


async def _members(call: Call, text: str) -> list[str]:
    if mxid := find_mxid(text):
        return [mxid]
    found = people_named(call, text, await people_who_greeted(call.around.db))
    pointed = [user_id for user_id in found if user_id in call.mentions]
    return pointed if len(pointed) == 1 else found


async def _trust(call: Call, user_id: str) -> None:
    outcome = await call.around.people.trust(user_id, call.witness.actor, call.tx)
    call.record("trust", f"{outcome.trust.value} {user_id} {outcome.fingerprint}".strip())
    sentence = {
        Trust.PINNED: wording.TRUST_PINNED,
        Trust.UNCHANGED: wording.TRUST_UNCHANGED,
        Trust.NO_IDENTITY: wording.TRUST_NO_IDENTITY,
        Trust.REFUSED: wording.TRUST_REFUSED,
    }[outcome.trust]
    who = call.reader.name(user_id)
    call.reply(call.say(sentence, who=who, fingerprint=outcome.fingerprint))
    if outcome.trust is Trust.PINNED:
        reader = await call.around.reader_of(user_id)
        call.send(Outgoing(reader.say(wording.TRUSTED_NOTICE), direct_to=user_id))
