"""Authorisation of `m.room.aliases`, in the room versions that know it (1 to 5)."""

from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import server_name_of


def check_aliases(event: Pdu) -> None:
    """Allow a server's users to list that server's aliases, members of the room or not."""
    if event.state_key is None:
        raise AuthRuleRejection("aliases.no_state_key", "not a state event")
    if server_name_of(event.sender) != event.state_key:
        raise AuthRuleRejection("aliases.of_another_server", "aliases of another server")
