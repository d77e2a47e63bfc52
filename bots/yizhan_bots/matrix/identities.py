"""Who the people are: their cross-signing identities, pinned at first sight, on the record.

A device counts when its owner's self-signing key signed it, that key is signed by the owner's
master key, and the master key is the pinned one. Pins change only through `trust`. What
`/keys/query` answered is kept and verified anew when it is read; it is asked again when the
homeserver says that a person's devices changed, and always for people with whom the bot shares
no room (of their changes nobody tells us).

A homeserver that lies from the first sight on is not found out by this: fingerprints are.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from yizhan_bots.conversation import Trust, TrustOutcome
from yizhan_bots.matrix.cross_signing import Device, Identity, fingerprint, read_identity
from yizhan_bots.matrix.http import Homeserver, Refusal, Unreachable
from yizhan_database import Database, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yizhan_bots.matrix.machine import Machine

Json = dict[str, Any]

log = logging.getLogger(__name__)

CHANGED: Final = "changed"
"""In the record only: another identity than the pinned one was shown."""
FIRST_SIGHT: Final = "first_sight"
ADMINISTRATOR: Final = "administrator"
MACHINE: Final = "machine"
"""How an identity came to be pinned; only `MACHINE` makes an administrator's count."""

QUERY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Person:
    """What is proved about a person, and whether it is who it was."""

    identity: Identity
    pinned: str | None
    """The pinned master key."""

    @property
    def changed(self) -> bool:
        """Whether another identity than the pinned one is shown."""
        shown = self.identity.master_key
        return shown is not None and self.pinned is not None and shown != self.pinned

    def counts(self, device: Device) -> bool:
        """Whether what this device says is said by the pinned person."""
        return device.signed and self.pinned is not None and not self.changed

    @property
    def counting_devices(self) -> list[Device]:
        """The devices that may decide, and that get our room keys."""
        return [d for d in self.identity.devices.values() if self.counts(d)]


class Identities:
    """The persons that the bot has met."""

    def __init__(
        self,
        database: Database,
        homeserver: Homeserver,
        machine: Machine,
        is_met: Callable[[str], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._homeserver = homeserver
        self._machine = machine
        self._is_met = is_met
        self._now_ms = now_ms
        self._known: dict[str, Person] = {}
        self._changes: defaultdict[str, int] = defaultdict(int)

    def mark_stale(self, user_ids: Iterable[str], tx: Transaction) -> None:
        """Note that these people's keys have to be asked for again."""
        for user_id in user_ids:
            self._known.pop(user_id, None)
            self._changes[user_id] += 1
            tx.execute("UPDATE matrix_identity SET stale = 1 WHERE user_id = ?", user_id)

    async def get(self, user_id: str) -> Person:
        """The person as of now. Raises `Unreachable` or `Refusal` when nobody can tell."""
        person = self._known.get(user_id)
        if person is not None and self._is_met(user_id):
            return person
        row = await self._database.row(
            "SELECT keys FROM matrix_identity WHERE user_id = ? AND stale = 0", user_id
        )
        if row is not None and self._is_met(user_id):
            identity = read_identity(user_id, orjson.loads(row[0]))
            return self._remember(Person(identity, await self._find_pin(user_id)))
        return await self._ask(user_id)

    async def trust(self, user_id: str, how: str, by_whom: str, tx: Transaction) -> TrustOutcome:
        """Pin the identity that the homeserver shows now; `tx` records it and by whom."""
        try:
            identity = read_identity(user_id, await self._query(user_id))
        except (Unreachable, Refusal):
            return TrustOutcome(Trust.NO_IDENTITY)
        master = identity.master_key
        if master is None or identity.self_signing_key is None:
            return TrustOutcome(Trust.NO_IDENTITY)
        row = await self._database.row(
            "SELECT master_key, how FROM matrix_pin WHERE user_id = ?", user_id
        )
        previous = None if row is None else row[0]
        if row is not None and previous == master and (how != MACHINE or row[1] == MACHINE):
            return TrustOutcome(Trust.UNCHANGED, fingerprint(master))
        self._pin(tx, user_id, master_key=master, previous=previous, how=how, by_whom=by_whom)
        tx.after_commit(lambda _: self._forget(user_id))
        return TrustOutcome(Trust.PINNED, fingerprint(master))

    async def is_pinned_on_the_machine(self, user_id: str, master_key: str) -> bool:
        """Whether `yizhan bots trust` pinned this very identity."""
        row = await self._database.row(
            "SELECT how FROM matrix_pin WHERE user_id = ? AND master_key = ?", user_id, master_key
        )
        return row is not None and row[0] == MACHINE

    async def _ask(self, user_id: str) -> Person:
        while True:
            before = self._changes[user_id]
            answer = await self._query(user_id)
            if self._changes[user_id] == before:
                break  # else the answer may be older than the change that we were told of
        identity = read_identity(user_id, answer)
        pinned = await self._find_pin(user_id)
        tx = Transaction()
        tx.execute(
            """
            INSERT INTO matrix_identity (user_id, keys, stale) VALUES (?, ?, 0)
            ON CONFLICT (user_id) DO UPDATE SET keys = excluded.keys, stale = 0
            """,
            user_id,
            orjson.dumps(answer),
        )
        shown = identity.master_key
        if shown is not None and pinned is None and identity.self_signing_key is not None:
            self._pin(tx, user_id, master_key=shown, previous=None, how=FIRST_SIGHT, by_whom="")
            pinned = shown
        elif shown is not None and pinned is not None and shown != pinned:
            await self._note_change(tx, user_id, shown, pinned)
        await self._database.commit(tx)
        if self._changes[user_id] != before:
            return await self._ask(user_id)
        return self._remember(Person(identity, pinned))

    async def _query(self, user_id: str) -> Json:
        answer = await self._homeserver.request(
            "POST",
            "v3/keys/query",
            {"device_keys": {user_id: []}, "timeout": int(QUERY_SECONDS * 500)},
            seconds=QUERY_SECONDS,
        )
        if answer.get("failures"):
            raise Unreachable("the person's homeserver did not answer")
        kinds = ("device_keys", "master_keys", "self_signing_keys")
        kept = {kind: answer.get(kind) for kind in kinds}
        return {
            kind: {user_id: of_kind[user_id]}
            for kind, of_kind in kept.items()
            if isinstance(of_kind, dict) and user_id in of_kind
        }

    async def _find_pin(self, user_id: str) -> str | None:
        row = await self._database.row(
            "SELECT master_key FROM matrix_pin WHERE user_id = ?", user_id
        )
        return None if row is None else row[0]

    async def _note_change(self, tx: Transaction, user_id: str, shown: str, pinned: str) -> None:
        last = await self._database.row(
            "SELECT master_key FROM matrix_pin_record WHERE user_id = ? ORDER BY pos DESC LIMIT 1",
            user_id,
        )
        if last is None or last[0] != shown:
            log.warning("cross-signing identity changed", extra={"user_id": user_id})
            self._record(tx, user_id, master_key=shown, previous=pinned, how=CHANGED, by_whom="")

    def _pin(
        self,
        tx: Transaction,
        user_id: str,
        *,
        master_key: str,
        previous: str | None,
        how: str,
        by_whom: str,
    ) -> None:
        tx.execute(
            """
            INSERT INTO matrix_pin (user_id, master_key, how) VALUES (?, ?, ?)
            ON CONFLICT (user_id) DO UPDATE SET
              master_key = excluded.master_key, how = excluded.how
            """,
            user_id,
            master_key,
            how,
        )
        self._record(
            tx, user_id, master_key=master_key, previous=previous, how=how, by_whom=by_whom
        )

    def _record(
        self,
        tx: Transaction,
        user_id: str,
        *,
        master_key: str,
        previous: str | None,
        how: str,
        by_whom: str,
    ) -> None:
        tx.execute(
            """
            INSERT INTO matrix_pin_record
              (pos, user_id, master_key, previous, how, by_whom, at_ms)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """,
            tx.position(),
            user_id,
            master_key,
            previous,
            how,
            by_whom,
            self._now_ms(),
        )

    def _remember(self, person: Person) -> Person:
        user_id = person.identity.user_id
        counting = {device.device_id for device in person.counting_devices}
        self._machine.use_devices(user_id, person.identity.devices.values(), counting)
        if self._is_met(user_id):
            self._known[user_id] = person
        return person

    def _forget(self, user_id: str) -> None:
        self._known.pop(user_id, None)
        self._changes[user_id] += 1
