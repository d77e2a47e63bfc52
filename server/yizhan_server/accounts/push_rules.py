"""Each user's push rules: stored, changed through the API, and compiled for evaluation.

A change takes a position, because /sync shows the rules as account data `m.push_rules`.
Compiled rules are cached; the many users who never changed a rule share one object, so that the
writer of an event judges them as one group.

Spec: client-server API, "Push Rules".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import orjson

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts.own_change import record_own_change
from yizhan_server.protocol import push_rules as rules
from yizhan_server.protocol.canonical_json import check_nesting, encode_canonical
from yizhan_server.protocol.errors import MatrixError, NotFound
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.storage import account_data as storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yizhan_database import Database
    from yizhan_server.protocol.push_rules import CompiledRules
    from yizhan_server.streams import Stream

Ruleset = dict[str, Any]

MAX_RULESET_BYTES = 262_144
_CACHE_SIZE = 10_000
_ATTEMPTS = 5


class PushRules:
    """The push rules of local users."""

    def __init__(self, db: Database, stream: Stream) -> None:
        self._db = db
        self._stream = stream
        self._default = rules.compile_rules(rules.default_ruleset(UserID("")))
        self._compiled: OrderedDict[UserID, CompiledRules] = OrderedDict()
        self._generation = 0

    @property
    def generation(self) -> int:
        """Raised whenever anybody's rules change."""
        return self._generation

    # region reading

    async def get(self, user_id: UserID) -> Ruleset:
        """Return a user's `global` ruleset."""
        return _ruleset(user_id, await storage.find_push_rules(self._db, user_id))

    async def get_rule(self, user_id: UserID, kind: str, rule_id: str) -> dict[str, Any]:
        """Return one rule, or answer M_NOT_FOUND."""
        rule = rules.find_rule(await self.get(user_id), rules.check_kind(kind), rule_id)
        if rule is None:
            raise NotFound("The push rule was not found")
        return rule

    async def find_changed(
        self, user_id: UserID, after: int, up_to: int
    ) -> tuple[Ruleset, int] | None:
        """Return the ruleset and its position if it was changed in (after, up_to], for /sync.

        A first sync shows `get` anyway: a user has rules from the beginning, without a position.
        """
        stored = await storage.find_push_rules(self._db, user_id)
        if stored is None or not after < stored.pos <= up_to:
            return None
        return _ruleset(user_id, stored), stored.pos

    async def get_compiled(self, user_ids: Iterable[UserID]) -> dict[UserID, CompiledRules]:
        """Return each user's rules, ready for evaluation."""
        compiled: dict[UserID, CompiledRules] = {}
        missing: list[UserID] = []
        for user_id in user_ids:
            known = self._compiled.get(user_id)
            if known is None:
                missing.append(user_id)
            else:
                compiled[user_id] = known
        if missing:
            generation = self._generation
            stored = await storage.find_push_rules_of(self._db, missing)
            for user_id in missing:
                own = stored.get(user_id)
                compiled[user_id] = (
                    self._default if own is None else rules.compile_rules(_ruleset(user_id, own))
                )
            # A change that committed while we read has emptied the cache already; what was read
            # may be older than it.
            if generation == self._generation:
                for user_id in missing:
                    self._compiled[user_id] = compiled[user_id]
                while len(self._compiled) > _CACHE_SIZE:
                    self._compiled.popitem(last=False)
        return compiled

    # region changing

    async def put_rule(
        self,
        user_id: UserID,
        kind: str,
        rule_id: str,
        body: dict[str, Any],
        *,
        before: str | None,
        after: str | None,
    ) -> None:
        """Add a rule, or change and perhaps move it."""
        await self._change(
            user_id,
            lambda ruleset: rules.put_rule(
                ruleset, kind, rule_id, body, before=before, after=after
            ),
        )

    async def delete_rule(self, user_id: UserID, kind: str, rule_id: str) -> None:
        """Remove a rule of the user's own."""
        await self._change(user_id, lambda ruleset: rules.delete_rule(ruleset, kind, rule_id))

    async def set_enabled(self, user_id: UserID, kind: str, rule_id: str, *, enabled: bool) -> None:
        """Enable or disable a rule."""
        await self._change(
            user_id,
            lambda ruleset: rules.set_enabled(ruleset, kind, rule_id, enabled=enabled),
        )

    async def set_actions(
        self, user_id: UserID, kind: str, rule_id: str, actions: list[Any]
    ) -> None:
        """Change what a rule does."""
        await self._change(
            user_id, lambda ruleset: rules.set_actions(ruleset, kind, rule_id, actions)
        )

    async def _change(self, user_id: UserID, change: Callable[[Ruleset], Ruleset]) -> None:
        for _ in range(_ATTEMPTS):
            stored = await storage.find_push_rules(self._db, user_id)
            changed = change(_ruleset(user_id, stored))
            check_nesting(changed)
            encoded = encode_canonical(changed)
            if len(encoded) > MAX_RULESET_BYTES:
                raise MatrixError(400, "M_TOO_LARGE", "The push rules are too large")
            tx = Transaction()
            pos = record_own_change(tx, self._stream, user_id)
            if stored is None:
                storage.insert_push_rules(tx, user_id, encoded, pos)
            else:
                storage.update_push_rules(tx, user_id, stored.ver, encoded, pos)
            tx.after_commit(lambda _: self._forget(user_id))
            try:
                await self._db.commit(tx)
            except GuardFailed:
                continue  # another device was faster: apply the change to what it left
            return
        raise MatrixError(409, "M_UNKNOWN", "The push rules are changing; try again")

    def _forget(self, user_id: UserID) -> None:
        self._generation += 1
        self._compiled.pop(user_id, None)


def _ruleset(user_id: UserID, stored: storage.StoredRules | None) -> Ruleset:
    if stored is None:
        return rules.default_ruleset(user_id)
    return rules.with_current_defaults(orjson.loads(stored.ruleset), user_id)
