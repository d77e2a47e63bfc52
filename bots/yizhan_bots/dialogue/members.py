"""`!成员 信任 @user`: an administrator restores a person whose cross-signing identity changed.

In two messages. The first shows the fingerprint of the identity that the homeserver publishes
now; the second must carry its beginning, and pins that identity or none. With the name alone a
homeserver could hold such a command back, let the administrator repeat it, put an identity of
its own in the person's place and then deliver the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_bots.conversation import Outgoing, Trust
from yizhan_bots.wording import dialogue as wording
from yizhan_database import Transaction

from .filling import people_named
from .grammar import find_mxid
from .memory import NamingMember, people_who_greeted

if TYPE_CHECKING:
    from .call import Call


PROOF_LENGTH = 12
"""Characters of the fingerprint (72 bits): too many to make a key with the same beginning."""


async def trust_member(call: Call, text: str) -> None:
    """Restore trust in the person that the text names; ask for what it does not give."""
    if not await call.around.people.is_administrator(call.witness.actor):
        call.record("refused", "not_administrator")
        call.reply(call.say(wording.TRUST_NOT_ADMINISTRATOR))
        return
    if not text:
        call.person.memory.question = NamingMember(call.around.now_ms())
        call.ask(call.say(wording.TRUST_WHOM))
        return
    first, _, rest = text.partition(" ")
    proof = "".join(rest.split()) if find_mxid(first) else ""
    found = await _members(call, first if proof else text)
    if len(found) != 1:
        sentence = wording.APPROVER_AMBIGUOUS if found else wording.TRUST_WHOM
        call.reply(call.say(sentence, text=text[:40], people=" ".join(found)))
        return
    await _trust(call, found[0], proof)


async def _members(call: Call, text: str) -> list[str]:
    if mxid := find_mxid(text):
        return [mxid]
    found = people_named(call, text, await people_who_greeted(call.around.db))
    pointed = [user_id for user_id in found if user_id in call.mentions]
    return pointed if len(pointed) == 1 else found


async def _trust(call: Call, user_id: str, proof: str) -> None:
    people, actor = call.around.people, call.witness.actor
    who = call.reader.name(user_id)
    # Into a transaction that is never committed: only to learn what would be pinned.
    shown = await people.trust(user_id, actor, Transaction())
    if shown.trust is not Trust.PINNED:
        call.record("trust", f"{shown.trust.value} {user_id}")
        sentence = {
            Trust.UNCHANGED: wording.TRUST_UNCHANGED,
            Trust.NO_IDENTITY: wording.TRUST_NO_IDENTITY,
            Trust.REFUSED: wording.TRUST_REFUSED,
        }[shown.trust]
        call.reply(call.say(sentence, who=who))
        return
    plain = "".join(shown.fingerprint.split())
    if len(proof) < PROOF_LENGTH or not plain.startswith(proof):
        if proof:
            call.record("refused", "another_fingerprint")
        command = f"{user_id} {plain[:PROOF_LENGTH]}"
        fingerprint = shown.fingerprint
        call.ask(call.say(wording.TRUST_CHECK, who=who, fingerprint=fingerprint, command=command))
        return
    pinned = await people.trust(user_id, actor, call.tx)
    if pinned != shown:
        raise RuntimeError("the identity changed while it was being trusted")
    call.record("trust", f"pinned {user_id} {plain}")
    call.reply(call.say(wording.TRUST_PINNED, who=who, fingerprint=shown.fingerprint))
    reader = await call.around.reader_of(user_id)
    call.send(Outgoing(reader.say(wording.TRUSTED_NOTICE), direct_to=user_id))
