"""Which member events each client has received, so that few are sent twice.

In memory and bounded: what is forgotten is sent again, which harms nobody. An event counts as
received only once the client asks for what comes after the answer that held it; until then a
repeated request gets it again.

Spec: client-server API, "Lazy-loading room members".
"""

from __future__ import annotations

from collections import OrderedDict

from yizhan_server.sync.changes import Window

CLIENTS = 2000
MEMBERS = 2000

Client = tuple[str, ...]
"""Whatever names one sequence of syncs: user, device, and the connection if there are several."""


class LazyMembers:
    """Remembers what was sent."""

    def __init__(self) -> None:
        self._sent: OrderedDict[Client, OrderedDict[tuple[int, str], tuple[int, int]]] = (
            OrderedDict()
        )

    def forget(self, client: Client) -> None:
        """An initial sync begins: the client has nothing."""
        self._sent.pop(client, None)

    def forget_room(self, client: Client, room: int) -> None:
        """A room is shown to the client anew."""
        sent = self._sent.get(client)
        if sent is not None:
            for key in [key for key in sent if key[0] == room]:
                del sent[key]

    def unsent(
        self, client: Client, room: int, members: dict[str, int], window: Window
    ) -> set[int]:
        """Return the member events among `members` (user -> event) that the client lacks.

        They are taken to be sent with the answer about `window`.
        """
        sent = self._sent.setdefault(client, OrderedDict())
        self._sent.move_to_end(client)
        while len(self._sent) > CLIENTS:
            self._sent.popitem(last=False)
        lacking = set()
        for user, event in members.items():
            known, sent_at = sent.get((room, user), (0, 0))
            if known != event or sent_at > (window.after or 0):
                sent[room, user] = (event, window.upto)
                lacking.add(event)
        while len(sent) > MEMBERS:
            sent.popitem(last=False)
        return lacking
