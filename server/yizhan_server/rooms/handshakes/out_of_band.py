"""Memberships of people of this server in rooms that the server itself is not in.

An invitation, a knock, or the end of one of them: the event is an outlier, the membership has a
position of its own, and there is no state of the room beside what came with the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yizhan_database import Commit, Database, Transaction
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.room import Room
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import invitations as stored_invitations
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage.numbers import Numbers
from yizhan_server.streams import Stream


class OutOfBand:
    """Keeps memberships without their room."""

    def __init__(self, db: Database, stream: Stream, numbers: Numbers) -> None:
        self._db = db
        self._stream = stream
        self._numbers = numbers

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

        `state` is what came with an invitation or knock; None ends it.
        """
        assert pdu.state_key is not None, "member events are state events"
        user_id, membership = UserID(pdu.state_key), pdu.membership
        assert membership is not None, "the format of the event has been checked"
        known = await stored_events.known_pdus(self._db, room.nid, [pdu.event_id], room.version)
        tx = Transaction()
        if pdu.event_id in known:
            nid = known[pdu.event_id].nid
        else:
            nid = await self._numbers.next("event")
            client, rest = stored_events.split_pdu(pdu)
            stored_events.append_event(
                tx, nid=nid, room=room.nid, pos=None, pdu=pdu, line=None, seq=None,
                relation=stored_events.relation_of(pdu.content), flags=0, client=client, rest=rest,
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

        def tell(commit: Commit) -> None:
            self._stream.publish(commit[pos])
            self._stream.wake([user_id])

        tx.after_commit(tell)
        await self._db.commit(tx)
