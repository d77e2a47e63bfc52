"""Redactions: the rule of versions 1 and 2, and since version 3 the check when one is applied."""

from yizhan_server.protocol.auth_rules.room_state import RoomState
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import server_name_of
from yizhan_server.protocol.power_levels import PowerLevels


def check_redaction(event: Pdu, state: RoomState) -> None:
    """Reject a redaction in version 1 or 2 by neither a moderator nor the same server."""
    if state.levels.of_user(event.sender) >= state.levels.redact:
        return
    if event.redacts is not None and (
        server_name_of(event.redacts) == server_name_of(event.event_id)
    ):
        return
    raise AuthRuleRejection("redaction.not_permitted", "may not redact other servers' events")


def may_redact(redaction: Pdu, target: Pdu, levels: PowerLevels) -> bool:
    """Tell whether an accepted redaction is to be applied to `target` (versions 3 and later).

    `levels` are those before the redaction. The rules above let everybody send redactions of
    anything, because servers may not know the target yet; only this decides about its effect.
    Spec: room version 3, "Handling redactions".
    """
    if redaction.room_id != target.room_id or redaction.redacts != target.event_id:
        return False
    if levels.of_user(redaction.sender) >= levels.redact:
        return True
    return server_name_of(redaction.sender) == server_name_of(target.sender)
