"""Push rules, evaluated when an event is written and never again.

The event's flags hold what the predefined rules say to a member whom it does not name; every local
user whose own result differs gets a row in the same commit, so that the unread count is right
in the same /sync as the event. Users with equal rules are judged together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakKeyDictionary

import orjson

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import ServerName, UserID, server_name_of
from yizhan_server.protocol.push_rules import (
    CompiledRules,
    PushActions,
    PushEvent,
    compile_rules,
    default_ruleset,
    evaluate_group,
)
from yizhan_server.rooms.power import StateSource, power_levels_in
from yizhan_server.rooms.room import Room
from yizhan_server.storage.events import HIGHLIGHT, NOTIFY, SOUND
from yizhan_server.storage.push_exceptions import PushException

Groups = dict[CompiledRules, set[UserID]]


class PushRulesSource(Protocol):
    """Knows everybody's push rules."""

    @property
    def generation(self) -> int:
        """Raised whenever anybody's rules change."""
        ...

    async def get_compiled(self, user_ids: Iterable[UserID]) -> dict[UserID, CompiledRules]:
        """Return each user's rules, ready to be applied; equal where they mean the same."""
        ...


class IgnoringSource(Protocol):
    """Knows who ignores whom."""

    async def ignorers_of(self, user_id: str) -> frozenset[UserID]:
        """Return the local users who ignore a user."""
        ...


class PushEvaluation:
    """Judges new events."""

    def __init__(
        self, rules: PushRulesSource, ignoring: IgnoringSource, server_name: ServerName
    ) -> None:
        self._rules = rules
        self._ignoring = ignoring
        self._server_name = server_name
        self._predefined = compile_rules(default_ruleset(UserID("")))
        self._groups: WeakKeyDictionary[Room, tuple[tuple[int, int], Groups]] = WeakKeyDictionary()

    async def judge(
        self, room: Room, pdu: Pdu, state: StateSource
    ) -> tuple[int, list[PushException]]:
        """Return the event's flags, and the users whose result differs from them."""
        groups = await self._groups_of(room)
        groups = await self._with_target(groups, pdu)
        event = PushEvent(
            {
                "type": pdu.type,
                "sender": pdu.sender,
                "room_id": pdu.room_id,
                "content": pdu.content,
                **({} if pdu.state_key is None else {"state_key": pdu.state_key}),
            },
            member_count=await room.joined_count(),
            levels=await power_levels_in(state, room.version),
        )
        names: dict[UserID, str | None] = {}
        common, differing = evaluate_group(
            self._predefined, event, groups.get(self._predefined, set()), names.get
        )
        exceptions = [
            _exception(user_id, actions, common) for user_id, actions in differing.items()
        ]
        for rules, users in groups.items():
            if rules == self._predefined:
                continue
            if rules.uses_names:
                names = await self._display_names(room, users)
            result, differing = evaluate_group(rules, event, users, names.get)
            if result != common:
                exceptions += [
                    _exception(user_id, result, common)
                    for user_id in users
                    if user_id not in differing
                ]
            exceptions += [
                _exception(user_id, actions, common)
                for user_id, actions in differing.items()
                if actions != common
            ]
        flags = 0
        if common is not None:
            flags = NOTIFY * common.notify | HIGHLIGHT * common.highlight
            if common.notify and common.tweaks.get("sound") == "default":
                flags |= SOUND
        ignorers = await self._ignoring.ignorers_of(pdu.sender)
        if ignorers:
            concerned = ignorers & set().union(*groups.values())
            exceptions = [each for each in exceptions if each.user_id not in concerned]
            if common is not None:
                exceptions += [_exception(user_id, None, common) for user_id in concerned]
        # One's own event notifies nobody; the counts leave it out already.
        return flags, [each for each in exceptions if each.user_id != pdu.sender]

    async def _groups_of(self, room: Room) -> Groups:
        """Return the room's local members by their rules."""
        users = await room.local_users()
        made_of = (room.membership_changes, self._rules.generation)
        known = self._groups.get(room)
        if known is not None and known[0] == made_of:
            return known[1]
        groups: Groups = defaultdict(set)
        for user_id, rules in (await self._rules.get_compiled(users)).items():
            groups[rules].add(user_id)
        self._groups[room] = (made_of, groups)
        return groups

    async def _with_target(self, groups: Groups, pdu: Pdu) -> Groups:
        """Return `groups` with the person whom an invitation is for."""
        if pdu.type != "m.room.member" or pdu.state_key is None or pdu.membership != "invite":
            return groups
        target = UserID(pdu.state_key)
        if server_name_of(target) != self._server_name:
            return groups
        rules = (await self._rules.get_compiled([target]))[target]
        return {**groups, rules: groups.get(rules, set()) | {target}}

    async def _display_names(self, room: Room, users: set[UserID]) -> dict[UserID, str | None]:
        names: dict[UserID, str | None] = {}
        for user_id in users:
            member = await room.state_event("m.room.member", user_id)
            name = None if member is None else member.pdu.content.get("displayname")
            names[user_id] = name if isinstance(name, str) else None
        return names


def _exception(
    user_id: UserID, actions: PushActions | None, common: PushActions | None
) -> PushException:
    notify, highlight = _bits(actions)
    usual_notify, usual_highlight = _bits(common)
    return PushException(
        user_id,
        notify - usual_notify,
        highlight - usual_highlight,
        orjson.dumps(actions.tweaks).decode() if actions is not None and actions.notify else None,
    )


def _bits(actions: PushActions | None) -> tuple[int, int]:
    if actions is None:
        return 0, 0
    return int(actions.notify), int(actions.highlight)
