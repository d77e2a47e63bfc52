"""How often a server is asked for its keys, whoever makes this one want them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_server.protocol.identifiers import ServerName

EACH_MS = 60_000
IN_A_ROW = 10
"""Questions to one server that answers: so many at once, for it may just have changed its key; in
the long run one in a minute."""
FIRST_DELAY_MS = 30_000
LONGEST_DELAY_MS = 600_000
MAX_REMEMBERED_ATTEMPTS = 10_000


@dataclass(frozen=True, slots=True)
class _Attempts:
    paid_until_ms: int = 0
    """Each question costs a minute."""
    delay_ms: int = 0
    not_before_ms: int = 0


class Attempts:
    """When each server may be asked again; of the last so many servers that were."""

    def __init__(self) -> None:
        self._servers: OrderedDict[ServerName, _Attempts] = OrderedDict()

    def may_ask(self, server: ServerName, now_ms: int) -> bool:
        """Tell whether the server has not been asked too often, or in vain just now."""
        so_far = self._servers.get(server)
        return so_far is None or (
            now_ms >= so_far.not_before_ms
            and so_far.paid_until_ms - now_ms <= (IN_A_ROW - 1) * EACH_MS
        )

    def note(self, server: ServerName, now_ms: int, *, answered: bool) -> None:
        """Remember that the server was asked. After failures it is left alone, ever longer."""
        so_far = self._servers.get(server, _Attempts())
        delay_ms = 0
        if not answered:
            delay_ms = min(max(FIRST_DELAY_MS, 2 * so_far.delay_ms), LONGEST_DELAY_MS)
        paid_until_ms = max(so_far.paid_until_ms, now_ms) + EACH_MS
        self._servers[server] = _Attempts(paid_until_ms, delay_ms, now_ms + delay_ms)
        self._servers.move_to_end(server)
        if len(self._servers) > MAX_REMEMBERED_ATTEMPTS:
            self._servers.popitem(last=False)
