"""Memberships of people of this server in rooms that the server itself is not in.

An invitation, a knock, or the end of one of them: the event is an outlier, the membership has a
position of its own, and there is no state of the room beside what came with the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yizhan_database import Commit, Database, Transaction
from yizhan_server.protocol.errors import BadJson
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.push_evaluation import PushEvaluation
from yizhan_server.rooms.room import Room, StateEvent
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import invitations as stored_invitations
from yizhan_server.storage import out_of_band as stored_changes
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.push_exceptions import PushException, append_exceptions
from yizhan_server.storage.state import StateKey
from yizhan_server.streams import Stream


class OutOfBand:
    """Keeps memberships without their room."""

    def __init__(
        self, db: Database, stream: Stream, numbers: Numbers, push: PushEvaluation
    ) -> None:
        self._db = db
        self._stream = stream
        self._numbers = numbers
        self._push = push

    async def membership(self, room: Room, user_id: str) -> stored_rooms.Membership | None:
        """Return a user's membership, wherever it was learnt."""
        return await stored_rooms.find_membership(self._db, room.nid, user_id)

    async def event_of(self, room: Room, membership: stored_rooms.Membership) -> Pdu | None:
        """Return the event of a membership."""
        found = await stored_events.pdus_by_nid(self._db, [membership.event], room.version)
        return found.get(membership.event)

    async def record(
        self, room: Room, pdu: Pdu, state: Sequence[dict[str, Any]] | None = None
    ) -> None:
        """Make a member event the membership of its target, a user of ours, and tell the user.

        `state` is what came with an invitation or knock; None ends it. BadJson where an event of
        another room has the same ID.
        """
        assert pdu.state_key is not None, "member events are state events"
        user_id, membership = UserID(pdu.state_key), pdu.membership
        assert membership is not None, "the format of the event has been checked"
        known = await stored_events.known_pdus(self._db, room.nid, [pdu.event_id], room.version)
        # Only an invitation is told of; the rules of whoever is invited decide.
        flags, exceptions = 0, list[PushException]()
        if membership == "invite":
            flags, exceptions = await self._push.judge(room, pdu, _no_state)
        tx = Transaction()
        if pdu.event_id in known:
            nid = known[pdu.event_id].nid
            stored_events.add_flags(tx, nid, flags)
        else:
            if await stored_events.taken_ids(self._db, room.nid, [pdu.event_id], room.version):
                raise BadJson("The event has the ID of another one")
            nid = await self._numbers.next("event")
            client, rest = stored_events.split_pdu(pdu)
            stored_events.append_event(
                tx, nid=nid, room=room.nid, pos=None, pdu=pdu, line=None, seq=None,
                relation=stored_events.relation_of(pdu.content), flags=flags, client=client,
                rest=rest,
            )  # fmt: skip
        if state is None:
            stored_invitations.delete_state(tx, room.nid, user_id)
        else:
            stored_invitations.replace_state(tx, room.nid, user_id, list(state))
        pos = tx.position()
        stored_rooms.replace_membership(
            tx, room=room.nid, user_id=user_id, membership=membership, sender=pdu.sender,
            event=nid, pos=pos,
        )  # fmt: skip
        stored_changes.append_change(tx, room.nid, user_id, nid, pos)
        append_exceptions(tx, room.nid, pos, exceptions)

        def tell(commit: Commit) -> None:
            self._stream.publish(commit[pos])
            self._stream.wake([user_id])

        tx.after_commit(tell)
        await self._db.commit(tx)


async def _no_state(_: StateKey) -> StateEvent | None:
    """Give no state: nothing is known of the room but what somebody says."""
    return None
