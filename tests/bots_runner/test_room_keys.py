"""Room keys and who may claim them: real Olm messages between devices, no homeserver."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import vodozemac
from nio.crypto import InboundGroupSession, OlmAccount  # type: ignore[import-untyped]
from unpaddedbase64 import encode_base64

from yizhan_bots.matrix.keystore import KeyStore, RoomKey
from yizhan_bots.matrix.machine import MEGOLM, KeyRequest, Machine
from yizhan_database import Database, Transaction
from yizhan_testing.databases import DIALECTS, Dialect, opened_fresh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BOT = "@bot:localhost"
ROOM = "!room:localhost"
JsonObject = dict[str, Any]


class Device:
    """Somebody's device, which can write Olm messages to the bot."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.account = OlmAccount()

    @property
    def curve25519(self) -> str:
        return str(self.account.identity_keys["curve25519"])

    @property
    def ed25519(self) -> str:
        return str(self.account.identity_keys["ed25519"])

    def writes(
        self, bot: BotDevice, event_type: str, content: JsonObject, **lies: Any
    ) -> JsonObject:
        """An encrypted to-device event as the bot's homeserver delivers it."""
        session = self.account.create_outbound_session(
            bot.machine.identity_key, bot.takes_one_time_key()
        )
        payload = {
            "sender": self.user_id,
            "keys": {"ed25519": self.ed25519},
            "recipient": BOT,
            "recipient_keys": {"ed25519": bot.machine.fingerprint_key},
            "type": event_type,
            "content": content,
        } | lies
        kind, body = session.encrypt(json.dumps(payload).encode()).to_parts()
        return {
            "type": "m.room.encrypted",
            "sender": self.user_id,
            "content": {
                "algorithm": "m.olm.v1.curve25519-aes-sha2",
                "sender_key": self.curve25519,
                "ciphertext": {
                    bot.machine.identity_key: {
                        "type": kind,
                        "body": encode_base64(body),
                    }
                },
            },
        }


class BotDevice:
    """The bot's side: machine, store, database."""

    def __init__(self, database: Database, keys: KeyStore) -> None:
        self.database = database
        self.keys = keys
        self.machine = Machine(BOT, "BOT", keys, lambda: 1000)
        self._one_time_keys: list[str] = []

    @classmethod
    async def open(cls, database: Database) -> BotDevice:
        keys = KeyStore(database, BOT, "BOT", "pickle key")
        await keys.load()
        return cls(database, keys)

    def takes_one_time_key(self) -> str:
        if not self._one_time_keys:
            self.machine.account.generate_one_time_keys(10)
            self._one_time_keys = list(self.machine.account.one_time_keys["curve25519"].values())
            self.machine.account.mark_keys_as_published()
        return self._one_time_keys.pop()

    async def gets(self, event: JsonObject) -> None:
        self.machine.take_to_device(event)
        await self.commits()

    async def commits(self) -> None:
        tx = Transaction()
        self.keys.write_into(tx)
        await self.database.commit(tx)

    async def claims(self, session_id: str) -> list[tuple[str, str, str]]:
        found = await self.keys.find_room_keys(ROOM, session_id)
        return [(key.user_id, key.sender_key, key.how) for key in found]


@pytest.fixture(params=DIALECTS)
async def bot(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BotDevice]:
    dialect: Dialect = request.param
    async with opened_fresh(dialect, "yizhan_bots.storage.migrations", tmp_path) as database:
        yield await BotDevice.open(database)


def room_key(session: vodozemac.GroupSession) -> JsonObject:
    return {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": session.session_id,
        "session_key": session.session_key.to_base64(),
    }


def forwarded_key(session: vodozemac.GroupSession, owner: Device, *chain: str) -> JsonObject:
    inbound = InboundGroupSession(
        session.session_key.to_base64(), owner.ed25519, owner.curve25519, ROOM
    )
    return {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": session.session_id,
        "session_key": inbound.export_session(inbound.first_known_index),
        "sender_key": owner.curve25519,
        "sender_claimed_ed25519_key": owner.ed25519,
        "forwarding_curve25519_key_chain": list(chain),
    }


async def test_a_key_belongs_to_the_device_whose_olm_message_brought_it(bot: BotDevice) -> None:
    alice, session = Device("@alice:localhost"), vodozemac.GroupSession()
    await bot.gets(alice.writes(bot, "m.room_key", room_key(session)))
    ciphertext = session.encrypt(b"hello").to_base64()

    [key] = await bot.keys.find_room_keys(ROOM, session.session_id)
    assert (key.user_id, key.sender_key, key.ed25519, key.how) == (
        alice.user_id,
        alice.curve25519,
        alice.ed25519,
        "direct",
    )
    decrypted = bot.keys.decrypt(key, ciphertext)
    assert decrypted is not None
    assert (decrypted.plaintext, decrypted.message_index) == (b"hello", 0)


async def test_whoever_passes_a_key_on_as_their_own_claims_beside_the_owner(
    bot: BotDevice,
) -> None:
    alice, mallory = Device("@alice:localhost"), Device("@mallory:localhost")
    session = vodozemac.GroupSession()
    await bot.gets(mallory.writes(bot, "m.room_key", room_key(session)))
    await bot.gets(alice.writes(bot, "m.room_key", room_key(session)))

    claims = await bot.claims(session.session_id)
    assert set(claims) == {
        (mallory.user_id, mallory.curve25519, "direct"),
        (alice.user_id, alice.curve25519, "direct"),
    }


async def test_the_envelope_and_the_ciphertext_must_name_the_same_sender(bot: BotDevice) -> None:
    mallory, session = Device("@mallory:localhost"), vodozemac.GroupSession()
    envelope = mallory.writes(bot, "m.room_key", room_key(session))
    await bot.gets(envelope | {"sender": "@alice:localhost"})
    assert await bot.claims(session.session_id) == []

    for_somebody_else = mallory.writes(
        bot, "m.room_key", room_key(session), recipient="@carol:localhost"
    )
    await bot.gets(for_somebody_else)
    assert await bot.claims(session.session_id) == []


async def test_forwarded_keys_count_when_asked_for_and_from_the_owning_device(
    bot: BotDevice,
) -> None:
    phone, laptop = Device("@alice:localhost"), Device("@alice:localhost")
    mallory, session = Device("@mallory:localhost"), vodozemac.GroupSession()
    resent = forwarded_key(session, phone)
    await bot.gets(phone.writes(bot, "m.forwarded_room_key", resent))
    assert await bot.claims(session.session_id) == []  # nobody had asked

    request = KeyRequest(ROOM, session.session_id, phone.user_id, "request")
    bot.machine.asked[ROOM, session.session_id] = request
    await bot.gets(mallory.writes(bot, "m.forwarded_room_key", resent))
    assert await bot.claims(session.session_id) == []  # and not her

    await bot.gets(laptop.writes(bot, "m.forwarded_room_key", resent))
    assert await bot.claims(session.session_id) == [
        (phone.user_id, phone.curve25519, "second_hand")
    ]
    await bot.gets(phone.writes(bot, "m.forwarded_room_key", resent))
    assert await bot.claims(session.session_id) == [(phone.user_id, phone.curve25519, "resent")]
    # What names an actor is not made worse by what comes later.
    await bot.gets(laptop.writes(bot, "m.forwarded_room_key", resent))
    assert await bot.claims(session.session_id) == [(phone.user_id, phone.curve25519, "resent")]


async def test_a_resent_key_with_a_forwarding_chain_is_second_hand(bot: BotDevice) -> None:
    phone, session = Device("@alice:localhost"), vodozemac.GroupSession()
    request = KeyRequest(ROOM, session.session_id, phone.user_id, "request")
    bot.machine.asked[ROOM, session.session_id] = request

    passed_on = forwarded_key(session, phone, "somebody between")
    await bot.gets(phone.writes(bot, "m.forwarded_room_key", passed_on))

    assert await bot.claims(session.session_id) == [
        (phone.user_id, phone.curve25519, "second_hand")
    ]


async def test_an_earlier_ratchet_state_of_the_same_owner_replaces_a_later_one(
    bot: BotDevice,
) -> None:
    alice, session = Device("@alice:localhost"), vodozemac.GroupSession()
    early = room_key(session)
    session.encrypt(b"one")
    late = room_key(session)
    for content, first_index in (late, 1), (early, 0), (late, 0):
        await bot.gets(alice.writes(bot, "m.room_key", content))
        [key] = await bot.keys.find_room_keys(ROOM, session.session_id)
        assert key.first_index == first_index


async def test_what_was_not_committed_is_read_again_after_a_crash(bot: BotDevice) -> None:
    alice, session = Device("@alice:localhost"), vodozemac.GroupSession()
    event = alice.writes(bot, "m.room_key", room_key(session))
    bot.machine.save_account()
    await bot.commits()  # the one-time key is durable, as before its upload
    bot.machine.take_to_device(event)  # killed before the commit

    revived = await BotDevice.open(bot.database)
    await revived.gets(event)
    assert await revived.claims(session.session_id) == [(alice.user_id, alice.curve25519, "direct")]
    # Committed, and delivered once more all the same: no harm, no second claim.
    again = await BotDevice.open(bot.database)
    await again.gets(event)
    assert len(await again.claims(session.session_id)) == 1


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"algorithm": MEGOLM},
        {"algorithm": MEGOLM, "room_id": 1, "session_id": 2, "session_key": 3},
        {"algorithm": MEGOLM, "room_id": ROOM, "session_id": "s", "session_key": "!"},
        {"algorithm": "another", "room_id": ROOM, "session_id": "s", "session_key": "AA"},
    ],
)
async def test_malformed_keys_are_dropped_and_the_next_message_is_read(
    bot: BotDevice, content: JsonObject
) -> None:
    alice, session = Device("@alice:localhost"), vodozemac.GroupSession()
    for kind in "m.room_key", "m.forwarded_room_key":
        await bot.gets(alice.writes(bot, kind, content))
    await bot.gets({"type": "m.room.encrypted", "sender": alice.user_id, "content": {"x": 1}})
    renamed = room_key(session) | {"session_id": "another"}
    await bot.gets(alice.writes(bot, "m.room_key", renamed))
    assert await bot.claims("another") == []

    await bot.gets(alice.writes(bot, "m.room_key", room_key(session)))
    assert len(await bot.claims(session.session_id)) == 1


async def test_a_key_under_another_pickle_key_is_unreadable_and_no_error(bot: BotDevice) -> None:
    alice, session = Device("@alice:localhost"), vodozemac.GroupSession()
    await bot.gets(alice.writes(bot, "m.room_key", room_key(session)))
    [key] = await bot.keys.find_room_keys(ROOM, session.session_id)
    stranger = KeyStore(bot.database, BOT, "BOT", "another pickle key")

    assert isinstance(key, RoomKey)
    assert stranger.decrypt(key, session.encrypt(b"hello").to_base64()) is None
