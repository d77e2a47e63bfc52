"""Valid events and transactions of a peer, spoilt at random, and answers to what they make asked.

    attack = Attack(guest, Random(1))
    await attack.sends(1000)
    log.info("%s", attack.outcomes)

Most events are hashed and signed anew after they have been spoilt, so that they get past the
first checks. What the peer is asked for, because they refer to what is not here, it answers with
the same kind of thing.
"""

from __future__ import annotations

import copy
import json
import time
from collections import Counter, deque
from random import Random
from typing import TYPE_CHECKING, Any

from aiohttp import web

from yizhan_server.protocol.canonical_json import NotCanonical, encode_lenient
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.signing import hash_and_sign_event

if TYPE_CHECKING:
    from yizhan_server.protocol.event import Pdu
    from yizhan_testing.peer import Answered, Handler
    from yizhan_testing.peer_in_room import PeerInRoom

SECRET = "the wording of a message"
PER_TRANSACTION = 10
PEOPLE = 200
REMEMBERED = 300
"""Events that later ones refer to, and transactions that are repeated."""

ODD: list[Any] = [
    None, True, 0, -1, 2**53, 2**63, 2**70, 1.5, "", "\0", "x", "é" * 300, "@", "!x:y", "$x",
    "@mallory:elsewhere.test", [], [[]], ["$x"], [None], {}, {"a": {}}, {"membership": "join"},
    "leave", "ban", "invite", "knock", {"users": {"@mallory:elsewhere.test": 2**60}},
    {"a": [[[[[[]]]]]]}, "m.room.create",
]  # fmt: skip


def spoilt(value: Any, random: Random) -> Any:
    """Return `value` with one thing in it left out, put in, doubled or changed."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        changed = dict(value)
        how = random.random()
        if how < 0.2:
            del changed[key]
        elif how < 0.3:
            changed[random.choice(["x", "event_id", "redacts", "unsigned", "origin"])] = value[key]
        else:
            changed[key] = spoilt(value[key], random)
        return changed
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.randrange(len(value))
        if random.random() < 0.3:
            return value + value[at : at + 1] * random.choice([1, 30])
        return [*value[:at], spoilt(value[at], random), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.5:
        return value + random.choice([-1, 1, 2**31])
    return copy.deepcopy(random.choice(ODD))


class Attack:
    """Sends spoilt things from one peer into one room, and counts what becomes of them."""

    def __init__(self, guest: PeerInRoom, random: Random) -> None:
        self._guest = guest
        self._random = random
        self._events: deque[Pdu] = deque([guest.last[0]], maxlen=REMEMBERED)
        self._transactions: deque[tuple[str, Any]] = deque(maxlen=REMEMBERED)
        self._number = 0
        self.outcomes: Counter[str] = Counter()
        """Of each event that was sent: taken, or why not."""
        for path, names in (
            ("get_missing_events", ["events"]), ("backfill", ["pdus"]), ("event/", ["pdus"]),
            ("event_auth", ["auth_chain"]), ("state/", ["pdus", "auth_chain"]),
            ("state_ids", ["pdu_ids", "auth_chain_ids"]),
        ):  # fmt: skip
            guest.peer.handlers_below[f"/_matrix/federation/v1/{path}"] = self._answering(names)

    async def sends(self, count: int) -> None:
        """Send at least so many events. AssertionError where the server is at fault."""
        left = count
        while left > 0:
            self._number += 1
            txn_id, body = f"{self._guest.room_id}-{self._number}", self._transaction()
            if self._transactions and self._random.random() < 0.05:
                # Again, or the same under another number, or another one under that number.
                txn_id, body = self._random.choice(
                    [self._random.choice(self._transactions), (txn_id, self._transactions[-1][1])]
                )
            self._transactions.append((txn_id, body))
            self._count(await self._send(txn_id, body), body)
            left -= PER_TRANSACTION

    def any_user(self) -> UserID:
        """Return somebody on the peer's server who may have said something."""
        return UserID(f"@u{self._random.randrange(PEOPLE)}:{self._guest.peer.name}")

    def _transaction(self) -> Any:
        random, guest = self._random, self._guest
        body: Any = {
            "origin": guest.peer.name, "origin_server_ts": time.time_ns() // 1_000_000,
            "pdus": [self._event() for _ in range(PER_TRANSACTION)], "edus": [],
        }  # fmt: skip
        if random.random() < 0.1:
            content = {"room_id": guest.room_id, "user_id": guest.user_id, "typing": True}
            body["edus"] = [spoilt({"edu_type": "m.typing", "content": content}, random)]
        if random.random() < 0.1:
            body = spoilt(body, random)
        elif random.random() < 0.02:
            body["pdus"][0] = {"type": "\ud800"}  # what no JSON can hold
        return body

    def _event(self) -> Any:
        """Return an event, now and then as it should be."""
        random, guest = self._random, self._guest
        sender = guest.user_id
        if random.random() < 0.1:
            sender = self.any_user()
        choices: list[tuple[str, dict[str, Any], str | None]] = [
            ("m.room.message", {"msgtype": "m.text", "body": SECRET}, None),
            ("m.room.member", {"membership": "join", "displayname": "M"}, sender),
            ("m.room.power_levels", {"users": {guest.user_id: 100}}, ""),
            ("m.room.name", {"name": "x"}, ""),
            ("m.room.redaction", {"redacts": guest.last[0].event_id}, None),
        ]
        kind, content, key = random.choice(choices)
        follows = None
        if random.random() < 0.1:
            follows = [random.choice(self._events).event_id for _ in range(random.randrange(3))]
        pdu = guest.event(kind, content, key, sender=sender, follows=follows)
        raw: Any = pdu.raw
        changes = random.choice([0, 1, 1, 2])
        for _ in range(changes):
            raw = spoilt(raw, random)
        if not changes:
            self._events.append(pdu)
        return self._signed(raw) if random.random() < 0.7 else raw

    def _signed(self, raw: Any) -> Any:
        """Return an event with the right hash and signature for what it says, if it can be."""
        guest = self._guest
        try:
            return hash_and_sign_event(raw, guest.version, guest.peer.name, guest.peer.key)
        except (NotCanonical, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return raw

    async def _send(self, txn_id: str, body: Any) -> Answered:
        guest = self._guest
        uri = f"/_matrix/federation/v1/send/{txn_id}"
        if self._random.random() < 0.02:
            data = bytearray(json.dumps(body).encode())
            data[self._random.randrange(len(data))] = self._random.randrange(256)
            body, encoded = {}, bytes(data)
        else:
            try:
                encoded = encode_lenient(body)
            except (NotCanonical, ValueError):
                encoded = json.dumps(body).encode()
        try:
            asking = guest.peer.authorization(guest.homeserver.server_name, "PUT", uri, body)
        except (NotCanonical, ValueError):
            asking = guest.peer.authorization(guest.homeserver.server_name, "PUT", uri, {})
        return await guest.peer.asks(
            guest.homeserver, "PUT", uri, authorization=asking, body=encoded
        )

    def _count(self, answer: Answered, body: Any) -> None:
        assert answer.status < 500, (answer.status, answer.content, body)
        if answer.status != 200:
            self.outcomes[f"transaction refused: {answer.errcode}"] += PER_TRANSACTION
            return
        results = answer.json["pdus"]
        for result in results.values():
            why = result.get("error", "taken")
            assert why != "internal error", body
            self.outcomes[why] += 1
        pdus = body.get("pdus") if isinstance(body, dict) else None
        if isinstance(pdus, list):
            self.outcomes["dropped, or twice the same"] += len(pdus) - len(results)
        self._continue(results)
        # What the guest has made is needed only as long as others refer to it.
        self._guest.known = {pdu.event_id: pdu for pdu in (*self._events, *self._guest.last)}
        self._guest.known |= {pdu.event_id: pdu for pdu in self._guest.state.values()}

    def _continue(self, results: dict[str, Any]) -> None:
        """Have later events follow one that was taken, now and then."""
        taken = [pdu for pdu in self._events if results.get(pdu.event_id) == {}]
        if taken and self._random.random() < 0.2:
            self._guest.last = [self._random.choice(taken)]

    def _answering(self, names: list[str]) -> Handler:
        async def answer(request: web.BaseRequest) -> web.Response:
            del request
            made: dict[str, Any] = {}
            for name in names:
                some = self._random.choices(self._events, k=self._random.randrange(6))
                made[name] = [
                    pdu.event_id if name.endswith("_ids") else self._signed(
                        spoilt(pdu.raw, self._random) if self._random.random() < 0.5 else pdu.raw
                    )
                    for pdu in some
                ]  # fmt: skip
            if self._random.random() < 0.1:
                made = spoilt(made, self._random)
            return web.Response(body=json.dumps(made).encode(), content_type="application/json")

        return answer
